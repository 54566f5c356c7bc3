import json
import os

import pytest
import torch
from safetensors.torch import save_file

from effdet.weights.limits import MAX_FILE, check_size, check_tensors, first_line, parse_json, short
from effdet.weights.own_format import read_safetensors
from effdet.weights.pickles import read_state

ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (ONE.to_sparse(), "got a tensor of the layout sparse_coo"),
        (torch.ones(1, device="meta"), "got a tensor of the device meta"),
        (torch.ones((1,) * 9), "got one of 9 dimensions"),
        (lambda: torch.quantize_per_tensor(ONE, 1.0, 0, torch.qint8), "got a quantised tensor"),
        (lambda: torch.nested.nested_tensor([ONE]), "got a nested tensor"),
    ],
    ids=["sparse", "meta", "9d", "quantised", "nested"],
)
@pytest.mark.filterwarnings("ignore")
def test_weights_are_dense_arrays(tmp_path, tensor, message):
    tensor = tensor() if callable(tensor) else tensor  # making some of them warns
    with pytest.raises(ValueError, match=f"w.pth: a.b must be a dense array of numbers in memory, {message}"):
        check_tensors({"a.b": tensor}, "w.pth", size=100)
    if tensor.layout == torch.sparse_coo:
        torch.save({"a.b": tensor}, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=r"w.pth: a.b must be a dense array"):
            read_state(tmp_path / "w.pth")


def test_views_of_one_number_do_not_fill_the_memory(tmp_path):
    torch.save({"a": ONE.expand(1 << 40)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w.pth has .* bytes, but its tensors claim 4,398,046,511,104"):
        read_state(tmp_path / "w.pth")


def test_a_file_with_a_hole_of_gigabytes_is_not_read(tmp_path):
    (tmp_path / "w.safetensors").touch()
    os.truncate(tmp_path / "w.safetensors", MAX_FILE + 1)
    for read in (read_safetensors, read_state, check_size):
        with pytest.raises(
            ValueError, match=r"w.safetensors must have 8,589,934,592 bytes or less to be a file of weights"
        ):
            read(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ', "d must be JSON: Expecting value"),
        ("[" * 100_000, "d must be JSON, but its lists and objects are nested too deeply"),
        ("1" * 5000, "d must be JSON: .*digits"),
        (b'"\xff"', "d must be JSON: .*decode"),
        (" " * (1 << 24) + "1", "d must have 16,777,216 bytes or less"),
    ],
    ids=["cut", "deep", "digits", "bytes", "long"],
)
def test_texts_that_are_no_json_are_one_sentence(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text, "d")


@pytest.mark.parametrize("description", ["{", "[" * 5000, "1" * 5000], ids=["cut", "deep", "digits"])
def test_a_damaged_description_names_its_file(tmp_path, description):
    save_file({"a": ONE}, tmp_path / "w.safetensors", {"format": "effdet-1", "description": description})
    with pytest.raises(ValueError, match=r"w.safetensors: its description must be JSON"):
        read_safetensors(tmp_path / "w.safetensors")
    save_file({"a": ONE}, tmp_path / "w.safetensors", {"format": "effdet-1"})
    with pytest.raises(ValueError, match=r"w.safetensors must have a description of its model beside the format"):
        read_safetensors(tmp_path / "w.safetensors")


def test_values_in_messages_are_short_and_on_one_line():
    nested = ()
    for _ in range(40):
        nested = (nested, nested)  # written out it would have 2^40 parts
    assert short(nested) == "(((...), (...)), ((...), (...)))"
    assert short("a\nb\0c") == "a?b?c"
    assert len(short("x" * 100_000)) == 80
    assert short(10**5000) == "a number of 16610 bits"
    assert short(json.loads("[1, [2, [3]]]")) == "[1, [2, [...]]]"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 300
