import pytest
import torch
from torch import nn

from effdet.training import checkpoint
from effdet.training.checkpoint import load_checkpoint, load_tensors, save_checkpoint, tensors_of


def test_a_checkpoint_comes_back_equal(tmp_path):
    state = {"weights": torch.randn(3), "rows": [{"ap": 0.5, "epoch": 1}], "best": float("-inf"), "none": None}
    save_checkpoint(tmp_path / "last.ckpt", state)
    loaded = load_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(loaded.pop("weights"), state.pop("weights"))
    assert loaded == {"format": checkpoint.FORMAT, **state}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint .*last\.ckpt does not exist"):
        load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, content):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt must be a checkpoint of a run, but cannot be read"):
        load_checkpoint(path)


def test_a_truncated_checkpoint_is_one_sentence(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"weights": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="it is damaged or another file"):
        load_checkpoint(path)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"weights": torch.randn(10_000), "step": 3})
    return path


@pytest.mark.parametrize(("count", "change"), [(4096, lambda byte: 0), (1, lambda byte: byte ^ 1)])
def test_zeros_and_a_flipped_bit_in_a_weight_are_found(archive, count, change):
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2
    content[middle : middle + count] = bytes(change(byte) for byte in content[middle : middle + count])
    archive.write_bytes(content)
    assert isinstance(torch.load(archive)["weights"], torch.Tensor)  # PyTorch itself does not notice
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged: the checksum of its part .*data/0 is wrong; start a"):
        load_checkpoint(archive)


def test_the_name_of_a_damaged_part_is_written_in_one_line(archive):
    content = archive.read_bytes()
    names = content.count(b"/data/0")
    content = content.replace(b"/data/0", b"/da\na/0")
    middle = len(content) // 2
    archive.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    assert names == 2  # of the part itself and of the list
    with pytest.raises(ValueError, match=r"the checksum of its part .*da\\na/0 is wrong"):
        load_checkpoint(archive)


def test_damage_at_any_place_is_one_sentence_or_harmless(archive):
    content, expected = archive.read_bytes(), load_checkpoint(archive)
    for place in range(0, len(content), 997):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        archive.write_bytes(damaged)
        try:
            found = load_checkpoint(archive)
        except ValueError:
            continue
        assert torch.equal(found["weights"], expected["weights"])
        assert found["step"] == expected["step"]


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"format": 1, "model": nn.Linear(1, 1)}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt must be a checkpoint of a run"):
        load_checkpoint(tmp_path / "evil.ckpt")


@pytest.mark.parametrize(("content", "found"), [({"epoch": 3}, "None"), ([1], "list")])
def test_another_projects_checkpoint_is_refused(tmp_path, content, found):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"must be a training checkpoint of format 1, got {found}"):
        load_checkpoint(tmp_path / "other.pth")


class Tiny(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.bn = nn.BatchNorm1d(width)
        self.register_buffer("mean", torch.zeros(3), persistent=False)


def test_tensors_include_buffers_that_a_state_dict_leaves_out():
    source, copy = Tiny(), Tiny()
    source.mean.fill_(5)
    source.bn.running_mean.fill_(4)
    load_tensors(copy, tensors_of(source))
    assert copy.mean.tolist() == [5, 5, 5]
    assert copy.bn.running_mean.tolist() == [4, 4]


def test_tensors_of_another_shape_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"must fit the model, but 4 tensors differ in name or shape, the first is bn\.bias"
    ):
        load_tensors(Tiny(2), tensors_of(Tiny(3)))


def test_a_missing_tensor_is_refused_by_name():
    tensors = tensors_of(Tiny())
    del tensors["mean"]
    with pytest.raises(ValueError, match=r"1 tensors differ in name or shape, the first is mean"):
        load_tensors(Tiny(), tensors)
