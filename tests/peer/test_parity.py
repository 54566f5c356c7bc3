"""Our networks against PyPI effdet's; `make parity` compares all 47."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

# Names that differ in structure; two tests, so that two cores share them.
GROUPS = [
    (
        *("tf_efficientdet_d0", "efficientdet_d0", "tf_efficientdet_lite0"),  # SAME or symmetric padding; plain sum
        *("efficientdet_q1", "cspdarkdet53m", "efficientdet_w0"),  # quad-FPN; Mish; features from inside a block
    ),
    (
        *("cspresdext50pan", "resdet50", "efficientdet_es"),  # PAN; full convolutions
        *("efficientdetv2_dt", "mobiledetv3_large", "mixdet_m"),  # bilinear, a level without lateral; hard-swish
        "tf_efficientdet_d7x",  # P8
    ),
]


@pytest.fixture(scope="module")
def parity():
    path = Path(__file__).with_name("parity.py")
    spec = importlib.util.spec_from_file_location("peer_parity", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for its annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names[0])
def test_logits_deltas_and_anchors_are_those_of_effdet(parity, peer_python, names, tmp_path):
    three_at_a_time = [names[start : start + 3] for start in range(0, len(names), 3)]  # their outputs fill the disk
    rows = [row for three in three_at_a_time for row in parity.compare(three, peer_python, tmp_path)]
    for row in rows:
        assert row.class_difference <= parity.LIMIT, row
        assert row.box_difference <= parity.LIMIT, row


def test_the_difference_counts_in_standard_deviations_of_the_level(parity):
    theirs = torch.tensor([[[-10.0], [10.0], [-1.0], [1.0]]])  # (1, 4, 1): two levels of two anchors
    shifted = theirs.clone()
    shifted[0, 3] += 0.5
    assert parity._difference(theirs, theirs, [2, 2]) == 0.0
    assert parity._difference(shifted, theirs, [2, 2]) == pytest.approx(0.5 / 2**0.5)


def test_an_output_without_signal_proves_nothing(parity):
    with pytest.raises(AssertionError, match="the signal died or exploded"):
        parity._difference(torch.zeros(1, 4, 1), torch.zeros(1, 4, 1), [2, 2])
