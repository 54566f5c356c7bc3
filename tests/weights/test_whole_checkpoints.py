"""Whole checkpoints that the original code of google and zylo117 wrote: too large for a clone, they lie beside it."""

import tarfile

import numpy as np
import torch

from effdet import EfficientDet
from effdet.images.preprocessing import Preprocessing
from effdet.ops.postprocess import PostprocessSettings
from effdet.weights import sources
from effdet.weights.coco_classes import COCO_IDS, COCO_NAMES
from effdet.weights.effdet import to_effdet
from effdet.weights.loading import load
from effdet.weights.tensorflow import read_checkpoint

# Folder or file given, number of variables in it, and the number of the first level in the names of its outputs.
GOOGLE = [("legacy", 1419, 3), ("legacy/model", 1419, 3), ("keras", 709, 0), ("keras/model.index", 709, 0)]


def relative_difference(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.std()).item()


def test_googles_checkpoints_give_googles_outputs_without_a_flag(shared_data):
    for source, count, first_level in GOOGLE:
        path = shared_data / "google_d0" / source
        assert len(read_checkpoint(path)) == count
        folder = shared_data / "google_d0" / source.split("/")[0]
        io = {name: torch.from_numpy(array) for name, array in np.load(folder / "io.npz").items()}
        levels = range(first_level, first_level + 5)
        logits = torch.cat([io[f"cls{level}"].reshape(1, -1, 90) for level in levels], dim=1)
        deltas = torch.cat([io[f"box{level}"].reshape(1, -1, 4) for level in levels], dim=1)[..., [1, 0, 3, 2]]

        model = EfficientDet.from_pretrained(path)
        with torch.no_grad():
            found = model.network(io["x"].permute(0, 3, 1, 2))

        assert relative_difference(found.class_logits, logits) < 2e-4
        assert relative_difference(found.box_deltas, deltas) < 1e-5
        assert (model.name, model.class_names, model.category_ids) == ("d0", COCO_NAMES, COCO_IDS)
        assert model.settings == PostprocessSettings.preset("google")
        assert model.preprocessing == Preprocessing.preset("google")


def test_an_archive_under_a_published_name_is_read(shared_data, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "google-advprop-efficientdet-d0.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(shared_data / "google_d0" / "keras", arcname="efficientdet-d0")
    monkeypatch.setattr(sources, "local_file", lambda file: tmp_path / file.file_name)
    found = load("google/advprop/efficientdet-d0")
    assert (found.architecture.name, found.preprocessing) == ("d0_ap", Preprocessing.preset("google-advprop"))
    assert load(tmp_path / "google-advprop-efficientdet-d0.tar.gz").architecture.name == "d0_ap"


def test_zylos_checkpoint_gives_zylos_outputs_without_a_flag(shared_data, tmp_path):
    io = torch.load(shared_data / "zylo_d0" / "io.pt", weights_only=True)
    model = EfficientDet.from_pretrained(shared_data / "zylo_d0" / "efficientdet-d0.pth")
    with torch.no_grad():
        found = model.network(io["x"])
    assert relative_difference(found.class_logits.sigmoid(), io["scores"]) < 1e-4
    assert relative_difference(found.box_deltas, io["regression"][..., [1, 0, 3, 2]]) < 1e-4
    anchors = io["anchors"].squeeze(0)[:, [1, 0, 3, 2]]
    torch.testing.assert_close(model.anchors((256, 256), "cpu"), anchors, atol=1e-3, rtol=0)
    assert (model.name, model.category_ids) == ("efficientdet-d0", COCO_IDS)
    assert model.settings == PostprocessSettings.preset("zylo")

    torch.save(to_effdet(model.network.state_dict(), model.name), tmp_path / "w.pth")
    again = EfficientDet.from_pretrained(tmp_path / "w.pth", variant="efficientdet-d0").network.state_dict()
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(again[name], tensor), name
