import json

import pytest
import torch
from safetensors.torch import save_file

from effdet.weights.own_format import is_folder, read_safetensors, save_folder, save_native, save_tensors


def test_weights_and_description_come_back(tmp_path):
    state = {"a": torch.randn(2, 3), "b": torch.tensor(7)}
    save_native(tmp_path / "new folder" / "x.safetensors", state, {"name": "d0", "ids": [1, 5]})
    loaded, description = read_safetensors(tmp_path / "new folder" / "x.safetensors")
    assert description == {"name": "d0", "ids": [1, 5]}
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_native(path, {"a": torch.zeros(1)}, {})
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("effdet.atomic_write.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_native(path, {"a": torch.ones(1)}, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_only_safetensors_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"saved as .safetensors, got '.*x.pt'; nearest valid: '.*x.pt.safetensors'"):
        save_native(tmp_path / "x.pt", {}, {})


def test_a_foreign_safetensors_file_has_no_description(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    state, description = read_safetensors(tmp_path / "x.safetensors")
    assert (state, description) == ({"a": torch.ones(1)}, None)


@pytest.mark.parametrize("length", [4, 60, -3])
def test_a_truncated_file_is_said_to_be_damaged(tmp_path, length):
    path = tmp_path / "x.safetensors"
    save_native(path, {"a": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"x\.safetensors is not a readable .* it is damaged or incomplete"):
        read_safetensors(path)


DESCRIPTION = {
    "name": "d0",
    "num_classes": 2,
    "class_names": ["cat", "dog"],
    "category_ids": [3, 7],
    "image_size": [128, 96],
    "mean": [0.0, 51.0, 255.0],
    "std": [51.0, 51.0, 51.0],
}


def test_a_folder_has_what_timm_and_the_hub_expect(tmp_path):
    save_folder(tmp_path / "cats", {"a": torch.zeros(2)}, DESCRIPTION)
    config = json.loads((tmp_path / "cats" / "config.json").read_text())
    assert (config["architecture"], config["num_classes"], config["label_names"]) == ("d0", 2, ["cat", "dog"])
    assert config["pretrained_cfg"] == {
        "input_size": [3, 128, 96],
        "mean": [0.0, 0.2, 1.0],
        "std": [0.2, 0.2, 0.2],
        "interpolation": "bilinear",
    }
    assert config["effdet"] == DESCRIPTION
    assert read_safetensors(tmp_path / "cats" / "model.safetensors")[1] == DESCRIPTION  # complete by itself
    card = (tmp_path / "cats" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: effdet\npipeline_tag: object-detection\n")
    assert "2 classes (cat, dog), input 128×96 pixels" in card
    assert 'from_pretrained("cats")' in card


def test_a_card_that_somebody_wrote_is_kept(tmp_path):
    (tmp_path / "README.md").write_text("Mine.")
    save_folder(tmp_path, {"a": torch.zeros(2)}, DESCRIPTION)
    assert (tmp_path / "README.md").read_text() == "Mine."


@pytest.mark.parametrize(
    ("name", "folder"),
    [("x", True), ("x.v1", True), ("v1.0", True), ("x.safetensors", False), ("x.pt", False), ("x.pth.tar", False)],
)
def test_a_name_without_an_ending_of_weights_is_a_folder(tmp_path, name, folder):
    assert is_folder(tmp_path / name) == folder
    (tmp_path / name).mkdir()
    assert is_folder(tmp_path / name)


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.safetensors"])
def test_a_plain_state_dict_is_saved_as_other_projects_do(tmp_path, name):
    state = {"a": torch.randn(2, 3), "b": torch.tensor(7)}
    save_tensors(tmp_path / "new" / name, state)
    path = tmp_path / "new" / name
    loaded = read_safetensors(path)[0] if name == "x.safetensors" else torch.load(path, weights_only=True)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    with pytest.raises(ValueError, match=r"is saved as \.pth, \.pt or \.safetensors, got '.*x\.bin'"):
        save_tensors(tmp_path / "x.bin", state)
