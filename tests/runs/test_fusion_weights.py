import csv

import numpy as np
import pytest
import torch

from effdet.commands import main
from effdet.models.necks.fusion import WeightedFusion
from effdet.models.necks.pyramid import FeaturePyramid
from effdet.runs.fusion_weights import FILE, FusionLog, fusion_shares, plot_fusion_weights, read_fusion_weights


def pyramid(fusion):
    torch.manual_seed(0)
    neck = FeaturePyramid([8, 12, 16], 4, 2, fusion=fusion)
    for module in neck.modules():
        if isinstance(module, WeightedFusion):
            module.edge_weights.data.uniform_(-0.2, 1.0)
    return neck


@pytest.fixture
def run(tmp_path):
    """Return a function that writes a run folder with the weights of a neck that changes over 20 steps."""

    def write(name, fusion):
        neck, folder = pyramid(fusion), tmp_path / name
        folder.mkdir()
        log = FusionLog(folder, neck, total_steps=20)
        for step in range(21):
            log.step(step)
            neck.layers[1].bottom_up[2].fuse.edge_weights.data[0] += 0.3
        return folder

    return write


@pytest.mark.parametrize("fusion", ["fast", "softmax", "channel_softmax"])
def test_shares_are_the_formula_of_the_fusion(fusion):
    neck = pyramid(fusion)
    shares = fusion_shares(neck)
    assert len(shares) == 2 * 8
    v = neck.layers[0].bottom_up[1].fuse.edge_weights.detach()
    w = v.relu() / (v.relu().sum(0) + 1e-4) if fusion == "fast" else v.exp() / v.exp().sum(0)
    torch.testing.assert_close(shares["layers.0.bottom_up.1"], w if w.ndim == 1 else w.mean(1))


def test_a_neck_without_weights_writes_no_file(tmp_path):
    FusionLog(tmp_path, pyramid("sum"), total_steps=20).step(0)
    FusionLog(None, pyramid("fast"), total_steps=20).step(0)  # as on all processes but the main one
    assert not list(tmp_path.iterdir())


def test_a_long_run_writes_about_a_hundred_rows(tmp_path):
    log = FusionLog(tmp_path, pyramid("fast"), total_steps=1234)
    for step in range(1235):
        log.step(step)
    assert read_fusion_weights(tmp_path).steps == tuple(range(0, 1235, 12))


def test_the_file_is_read_as_it_was_written(run):
    history = read_fusion_weights(run("fast", "fast"))
    assert (history.name, history.steps) == ("fast", tuple(range(21)))
    node = history.shares["layers.1.bottom_up.2"]
    assert node.shape == (21, 3)
    np.testing.assert_allclose(node.sum(1), 1.0, atol=2e-3)  # ε takes a little
    assert (np.diff(node[:, 0]) > 0).all()
    assert np.ptp(history.shares["layers.0.coarsest"], axis=0).max() == 0


def test_a_run_that_goes_on_repeats_no_step(tmp_path):
    log = FusionLog(tmp_path, pyramid("fast"), total_steps=20)
    for step in range(15):
        log.step(step)
    later = FusionLog(tmp_path, pyramid("softmax"), total_steps=20)  # from the checkpoint of step 10
    for step in range(10, 21):
        later.step(step)
    with (tmp_path / FILE).open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(21))


def test_the_picture_has_the_nodes_that_move_most(run, tmp_path):
    runs, picture = [run("fast", "fast"), run("softmax", "softmax")], tmp_path / "weights.png"
    assert "layers.1.bottom_up.2" in plot_fusion_weights(runs, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert plot_fusion_weights(runs, picture, nodes=["layers.0.coarsest"]) == ("layers.0.coarsest",)


def test_what_cannot_be_drawn_is_refused(run, tmp_path):
    folder, picture = run("fast", "fast"), tmp_path / "weights.png"
    with pytest.raises(FileNotFoundError, match=r"a run must have a fusion_weights\.csv"):
        plot_fusion_weights([folder, tmp_path], picture)
    with pytest.raises(ValueError, match=r"must have the node .layers\.9., but fast has layers\.0\.top_down\.0"):
        plot_fusion_weights([folder], picture, nodes=["layers.9"])
    with pytest.raises(ValueError, match="must have 1 to 4 runs, got 5"):
        plot_fusion_weights([folder] * 5, picture)


def test_the_command_draws(run, tmp_path, capsys):
    folder, picture = run("fast", "fast"), tmp_path / "new" / "weights.png"
    assert main(["fusion-weights", str(folder), "--out", str(picture), "--node", "layers.0.coarsest"]) == 0
    assert picture.is_file()
    assert "layers.0.coarsest" in capsys.readouterr().out
