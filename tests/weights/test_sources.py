import json

import pytest
import torch
from safetensors.torch import save_file

from effdet.weights import sources
from effdet.weights.published_files import PublishedFile
from effdet.weights.sources import read_source

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


def assert_same(found, state=STATE):
    assert found.tensors.keys() == state.keys()
    assert all(torch.equal(found.tensors[name], state[name]) for name in state)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.ckpt", "w.pth.tar", "w.safetensors", "w"])
@pytest.mark.parametrize("save", [torch.save, save_file], ids=["pickle", "safetensors"])
def test_the_content_tells_the_format_and_not_the_name(tmp_path, name, save):
    save(STATE, tmp_path / name)
    found = read_source(tmp_path / name)
    assert_same(found)
    assert (found.hint, found.description) == (name, None)


def test_a_header_whose_length_looks_like_a_pickle_is_still_a_header(tmp_path):
    path = tmp_path / "w.safetensors"
    for padding in range(0, 400, 8):
        save_file(STATE, path, metadata={"note": "x" * padding})
        if path.read_bytes()[0] == 0x80:  # how a pickle begins
            break
    assert path.read_bytes()[0] == 0x80
    assert_same(read_source(path))


def test_files_from_before_torch_1_6_are_read(tmp_path):
    torch.save(STATE, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert_same(read_source(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty; copy or download it again"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "it is a web page, saved in place of the file"),
        (b"<HTML><HEAD>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7", "it is a pointer of Git LFS"),
        (b"\x89HDF\r\n\x1a\n", r"it is a Keras \.h5 file; take the TensorFlow checkpoint"),
        (bytes(100), "it begins with zeros, so its download was interrupted"),
        (b"epoch,ap\n1,0.3\n", "its first bytes, b'epoch,ap', are those of no known format"),
    ],
)
def test_what_is_no_weights_is_said_to_be_what_it_is(tmp_path, content, message):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\.pth holds no weights: {message}"):
        read_source(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["m.onnx", "m.xml", "m.pt2"])
def test_an_exported_model_is_sent_to_the_runtimes(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"is an exported model, .* run it with effdet\.load"):
        read_source(tmp_path / name)


@pytest.mark.parametrize("save", [torch.save, save_file], ids=["pickle", "safetensors"])
def test_a_file_that_lost_its_end_is_damaged(tmp_path, save):
    save(STATE, tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"w\.pth is not a readable"):
        read_source(tmp_path / "w.pth")


def test_a_folder_of_timms_style_says_its_architecture(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "tf_efficientdet_d0", "label_names": ["cat"]}))
    found = read_source(tmp_path)
    assert_same(found)
    assert (found.hint, found.config["label_names"]) == ("tf_efficientdet_d0", ["cat"])


def test_a_folder_may_hold_a_pickled_file_or_no_config(tmp_path):
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    found = read_source(tmp_path)
    assert_same(found)
    assert found.hint == tmp_path.name


def test_the_folder_of_a_run_means_its_best_model(tmp_path):
    save_file(STATE, tmp_path / "best.safetensors")
    (tmp_path / "last.ckpt").write_bytes(b"")
    assert_same(read_source(tmp_path))


def test_a_folder_without_weights_says_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"must hold model\.safetensors, .* it holds nothing$"):
        read_source(tmp_path)
    for number in range(8):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(ValueError, match=r"it holds 0\.txt, 1\.txt, 2\.txt, 3\.txt, 4\.txt, 5\.txt, …$"):
        read_source(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("{", "must be JSON"), ("[1]", "must be a JSON object, got list")])
def test_a_config_that_is_none_is_refused(tmp_path, text, message):
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json {message}"):
        read_source(tmp_path)


def test_nothing_of_that_name_is_an_error_with_the_nearest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth do not exist; they must be a \.safetensors, "):
        read_source(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match="did you mean 'tf_efficientdet_d0'"):
        read_source("tf_efficientdt_d0")
    with pytest.raises(FileNotFoundError, match=r"this file is published: from_pretrained\('tf_efficientdet_d0'\) bri"):
        read_source(tmp_path / "tf_efficientdet_d0_34-f153e0cf.pth")


def test_a_published_name_brings_its_file(tmp_path, monkeypatch):
    asked = []

    def bring(file: PublishedFile):
        asked.append(file.file_name)
        torch.save(STATE, tmp_path / file.file_name)
        return tmp_path / file.file_name

    monkeypatch.setattr(sources, "local_file", bring)
    (tmp_path / "d0").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name does not stand in the way
    found = read_source("d0")
    assert asked == ["tf_efficientdet_d0_34-f153e0cf.pth"]
    assert (found.hint, found.where) == ("tf_efficientdet_d0", "d0 (tf_efficientdet_d0_34-f153e0cf.pth)")


def test_a_file_here_comes_before_a_published_name(tmp_path, monkeypatch):
    torch.save(STATE, tmp_path / "d0")
    monkeypatch.chdir(tmp_path)
    assert_same(read_source("d0"))


@pytest.mark.parametrize("name", ["hf-hub:d0", "hf-hub:", "hf-hub:a/b/c", "hf-hub:/d0"])
def test_a_repository_needs_an_owner_and_a_name(name):
    with pytest.raises(ValueError, match="must be named hf-hub:OWNER/NAME, got"):
        read_source(name)
