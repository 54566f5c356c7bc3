from dataclasses import dataclass

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from effdet.adaptation.latency import LatencyTable
from effdet.adaptation.proposals import propose
from effdet.adaptation.widths import widths_of
from effdet.models.cost import network_cost


@dataclass(kw_only=True)
class MacTable(LatencyTable):
    """A table whose milliseconds are millions of multiply-adds, so that they are the same on every machine."""

    def measure(self, parts):
        for part in parts:
            with torch.device("meta"):
                maps = [torch.empty(1, *size) for size in part.inputs] or torch.empty(1, *part.image)
                module = part.build().to("meta")
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                module(maps)
            self.milliseconds[part.key] = counter.get_total_flops() / 2e6

    def latency(self, part):
        return self.milliseconds[part.key]


def millions(architecture):
    return network_cost(architecture, num_classes=3, image_size=(64, 96)).macs / 1e6


def test_every_proposal_saves_enough_with_one_width(small_architecture):
    proposals = propose(small_architecture, 3, (64, 96), saving=0.2, table=MacTable())
    before = {name: width.value for name, width in widths_of(small_architecture).items()}
    assert {"stem", "neck", "heads", "head layers"} & {proposal.width for proposal in proposals}
    for proposal in proposals:
        assert millions(small_architecture) - millions(proposal.architecture) >= 0.2
        assert proposal.milliseconds == pytest.approx(millions(proposal.architecture))
        assert widths_of(small_architecture)[proposal.width].set(proposal.after) == proposal.architecture
        assert proposal.cut == f"{proposal.width} {before[proposal.width]} → {proposal.after}"


def test_a_width_that_cannot_save_enough_has_no_proposal(small_architecture):
    table = MacTable()
    everything = {p.width for p in propose(small_architecture, 3, (64, 96), saving=1e-3, table=table)}
    assert everything == {name for name, width in widths_of(small_architecture).items() if any(width.smaller())}
    assert propose(small_architecture, 3, (64, 96), saving=millions(small_architecture), table=table) == []
