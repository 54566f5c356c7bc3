import pytest
import torch
from safetensors.torch import save_file

from effdet.models.weights.native import read_safetensors, save_native


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

    monkeypatch.setattr("effdet.models.weights.native.os.replace", fail)
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
