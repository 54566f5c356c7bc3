import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from effdet import EfficientDet
from effdet.commands import main
from effdet.weights.effdet import to_effdet


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EfficientDet("tf_efficientdet_lite0", 2, image_size=(64, 64))


@pytest.fixture
def theirs(model, tmp_path):
    """A prediction bench of the effdet package around the model, as a file."""
    state = {f"model.{name}": tensor for name, tensor in to_effdet(model.network.state_dict(), model.name).items()}
    torch.save({**state, "anchors.boxes": torch.zeros(5, 4)}, tmp_path / "tf_efficientdet_lite0.pth")
    return tmp_path / "tf_efficientdet_lite0.pth"


@pytest.fixture
def photo(tmp_path):
    Image.effect_noise((90, 60), 80).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


def assert_same_network(a, b):
    first, second = a.network.state_dict(), b.network.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_projects_file_becomes_ours_and_every_tensor_is_accounted_for(model, theirs, tmp_path, capsys):
    assert convert(theirs, tmp_path / "w.safetensors", "--list", "--class-names", "cat", "dog") == 0
    out, err = capsys.readouterr()
    assert "696 tensors mapped: backbone 288, neck 234, class_head 87, box_head 87" in err
    assert "1 of the source not used: anchors.boxes" in err
    assert "read it again, and all 696 tensors are equal" in err
    lines = out.splitlines()
    assert len(lines) == 697
    assert lines[0] == "model.backbone.conv_stem.weight -> backbone.conv_stem.weight (32, 3, 3, 3)"
    assert lines[-1] == "anchors.boxes -> - ()"
    written = EfficientDet.from_pretrained(tmp_path / "w.safetensors")
    assert_same_network(written, model)
    assert (written.class_names, written.category_ids) == (("cat", "dog"), (1, 2))


def test_the_report_names_every_tensor(model, theirs, tmp_path, capsys):
    assert convert(theirs, tmp_path / "folder", "--json", "-") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["family"], report["variant"], report["num_classes"]) == ("effdet", "tf_efficientdet_lite0", 2)
    assert {row["name"] for row in report["tensors"]} == {*model.network.state_dict(), None}
    assert report["tensors"][0] == {
        "source": "model.backbone.conv_stem.weight",
        "name": "backbone.conv_stem.weight",
        "shape": [32, 3, 3, 3],
        "dtype": "torch.float32",
    }
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        *("README.md", "config.json", "model.safetensors")
    ]
    assert_same_network(EfficientDet.from_pretrained(tmp_path / "folder"), model)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_ours_becomes_theirs_and_comes_back(model, tmp_path, name, capsys):
    model.save_pretrained(tmp_path / "ours.safetensors")
    assert convert(tmp_path / "ours.safetensors", tmp_path / name, "--to", "effdet") == 0
    assert "effdet.create_model('tf_efficientdet_lite0', num_classes=2)" in capsys.readouterr().err
    load = load_file if name == "w.safetensors" else torch.load
    assert load(tmp_path / name).keys() == to_effdet(model.network.state_dict(), model.name).keys()
    assert_same_network(EfficientDet.from_pretrained(tmp_path / name), model)


def test_a_check_shows_what_the_written_model_detects(theirs, tmp_path, photo, capsys):
    drawn = tmp_path / "new" / "drawn.png"
    arguments = (theirs, tmp_path / "w.safetensors", "--check", photo, "--score-threshold", 0, "--draw", drawn)
    assert convert(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{photo}: 100 detections above 0.0"
    assert lines[1].split() == ["class", "score", "x1", "y1", "x2", "y2"]
    assert len(lines) == 102
    with Image.open(drawn) as picture:
        assert picture.size == (90, 60)


def test_a_check_stands_in_the_report(theirs, tmp_path, photo, capsys):
    file = tmp_path / "new" / "report.json"
    assert convert(theirs, tmp_path / "w.safetensors", "--check", photo, "--json", file) == 0
    assert json.loads(file.read_text())["detections"]["scores"] == []


def test_counters_that_the_source_lacks_are_counted(model, tmp_path, capsys):
    state = {name: tensor for name, tensor in model.network.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "w.pth")
    assert convert(tmp_path / "w.pth", tmp_path / "w.safetensors") == 0
    count = len(model.network.state_dict()) - len(state)
    assert f"{count} not in the source: {count} counters of BN batches\n" in capsys.readouterr().err


def test_zylos_pool_is_mentioned_where_it_is_lost(tmp_path, capsys):
    EfficientDet("efficientdet-d0", 1).save_pretrained(tmp_path / "zylo.safetensors")
    assert convert(tmp_path / "zylo.safetensors", tmp_path / "w.pth", "--to", "effdet") == 0
    err = capsys.readouterr().err
    assert "effdet.create_model('tf_efficientdet_d0', num_classes=1)" in err
    assert "its max-pool pads with zeros, which no model of that project does" in err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["w.onnx"], 1, "weights are saved as .safetensors"),
        (["w.onnx", "--to", "effdet"], 1, "a state dict is saved as .pth, .pt or .safetensors"),
        (["w.safetensors", "--variant", "d3"], 1, "do not fit variant 'd3'"),
        (["w.safetensors", "--class-names", "cat"], 1, "class_names must have one entry per class"),
        (["w.safetensors", "--draw", "x.png"], 2, "--draw needs --check IMAGE"),
    ],
)
def test_what_cannot_be_is_one_sentence(theirs, tmp_path, monkeypatch, capsys, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    assert convert(theirs, *arguments) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / arguments[0]).exists()
