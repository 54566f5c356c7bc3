"""``tensorflow_checkpoints.zip`` was written by TensorFlow 2.15.1.

``kinds``: ``SaveV2`` of 0…5 as (2, 3) in eight types, a scalar, an empty tensor, two strings; ``shards``: two
checkpoints through ``MergeV2Checkpoints``; ``slices``: ``SaveV2`` with the slice "4 0,2"; ``objects``: ``save_weights``
of a Keras model with one dense layer after a step of SGD with momentum.
"""

import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from effdet.weights.tensorflow import is_checkpoint, read_checkpoint


@pytest.fixture
def folder(tmp_path) -> Path:
    with zipfile.ZipFile(Path(__file__).parent / "tensorflow_checkpoints.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


@pytest.fixture
def alone(folder, tmp_path_factory) -> Path:
    """Folder with the checkpoint ``kinds`` alone."""
    place = tmp_path_factory.mktemp("alone")
    for path in folder.glob("kinds.*"):
        shutil.copy(path, place)
    return place


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16", "int32", "int64", "uint8", "bool"])
def test_every_numeric_type_comes_back(folder, kind):
    tensor = read_checkpoint(folder / "kinds")[f"kinds/{kind}"]
    expected = torch.arange(6).reshape(2, 3).to(getattr(torch, kind))
    assert tensor.dtype == expected.dtype
    assert torch.equal(tensor, expected)


def test_scalars_and_empty_tensors_come_back_and_texts_are_left_out(folder):
    tensors = read_checkpoint(folder / "kinds")
    assert torch.equal(tensors["kinds/scalar"], torch.tensor(7))
    assert tensors["kinds/empty"].shape == (0, 4)
    assert "kinds/text" not in tensors


def test_several_data_files_are_joined(folder):
    tensors = read_checkpoint(folder / "shards")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"x0": [0, 1, 2], "x1": [1, 2, 3]}


def test_object_based_names_become_variable_names(folder):
    tensors = read_checkpoint(folder / "objects")
    torch.testing.assert_close(tensors["dense/kernel"], torch.tensor([[0.13992586731910706, -0.3860487937927246]]))
    torch.testing.assert_close(tensors["dense/bias"], torch.tensor([0.09556379169225693, 0.15400542318820953]))
    assert tensors["SGD/dense/kernel/momentum"].shape == (1, 2)
    assert not any("VARIABLE_VALUE" in name for name in tensors)


@pytest.mark.parametrize("given", ["", "kinds", "kinds.index", "kinds.data-00000-of-00001"])
def test_any_name_of_a_checkpoint_finds_it(alone, given):
    assert is_checkpoint(alone / given)
    assert len(read_checkpoint(alone / given)) == 10


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar"])
def test_a_published_archive_is_read_as_it_is(alone, tmp_path, suffix):
    (alone / "checkpoint").write_text('model_checkpoint_path: "kinds"\n')
    path = tmp_path / f"efficientdet-d0{suffix}"
    with tarfile.open(path, "w" if suffix == ".tar" else "w:gz") as archive:
        archive.add(alone, "efficientdet-d0")
    assert is_checkpoint(path)
    assert len(read_checkpoint(path)) == 10


def test_a_broken_archive_is_refused(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"x.tar.gz is not a readable archive"):
        read_checkpoint(tmp_path / "x.tar.gz")


def test_other_paths_are_no_checkpoints(tmp_path):
    (tmp_path / "x.pth").touch()
    assert not is_checkpoint(tmp_path)
    assert not is_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("written", ["shards", "/data/old machine/shards", r"\\\\server\\models\\shards"])
def test_state_file_names_the_newest_of_a_folder(folder, written):
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{written}"\nall_model_checkpoint_paths: "kinds"\n')
    assert set(read_checkpoint(folder)) == {"x0", "x1"}


def test_several_checkpoints_without_a_state_file_are_listed(folder):
    with pytest.raises(
        ValueError, match=r"several checkpoints \(kinds, objects, shards, slices\); give the path of one"
    ):
        read_checkpoint(folder)


def test_stale_state_file_falls_back_to_the_only_checkpoint(alone):
    (alone / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
    assert "kinds/scalar" in read_checkpoint(alone)


def test_sliced_variables_are_refused_by_name(folder):
    with pytest.raises(ValueError, match=r"slices.index: variable x is saved in slices"):
        read_checkpoint(folder / "slices")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", r"holds no TensorFlow checkpoint"),
        ("x", r"needs the file .*x.index"),
        ("x.index", r"needs the file .*x.index"),
    ],
)
def test_absent_checkpoint_is_named(tmp_path, given, message):
    with pytest.raises(FileNotFoundError, match=message):
        read_checkpoint(tmp_path / given)


def test_absent_data_file_is_named(folder):
    (folder / "shards.data-00001-of-00002").unlink()
    with pytest.raises(FileNotFoundError, match=r"shards lacks shards.data-00001-of-00002; put it beside"):
        read_checkpoint(folder / "shards")


def test_truncated_data_file_is_named(folder):
    path = folder / "shards.data-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data-00001-of-00002 is truncated, .*: it is 11 bytes long, .* claim 12"):
        read_checkpoint(folder / "shards")


def test_one_flipped_bit_is_noticed(folder):
    path = folder / "shards.data-00000-of-00002"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"data-00000-of-00002: the checksum of x0 is wrong; copy the file again"):
        read_checkpoint(folder / "shards")


def test_flipped_bit_in_the_object_graph_is_noticed(folder):
    path = folder / "objects.data-00000-of-00001"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"dense/kernel", b"dense/kermel"))
    with pytest.raises(ValueError, match="the checksum of the object graph is wrong"):
        read_checkpoint(folder / "objects")


@pytest.mark.parametrize("keep", [0, 30, -1])
def test_truncated_index_is_named(folder, keep):
    path = folder / "kinds.index"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"kinds.index cannot be read: it does not end like a table"):
        read_checkpoint(folder / "kinds")
