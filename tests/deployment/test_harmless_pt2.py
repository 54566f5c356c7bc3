"""A .pt2 file runs no code when it is opened: each way in which PyTorch would run some is tried."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet.deployment.harmless_pt2 import harmless_copy
from effdet.deployment.load import load_exported
from effdet.deployment.runtimes import RefusedError
from effdet.deployment.torch_export import TorchExport

MODEL = "models/model.json"


class Small(torch.nn.Module):
    """A network with the kinds of operators that a detector has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.nn.functional.silu(self.conv(images))
        return torch.nn.functional.interpolate(found, scale_factor=2.0, mode="nearest"), found.sum((2, 3))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("pt2") / "small.pt2"
    batch = torch.export.Dim("batch", max=8)
    program = torch.export.export(Small().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, file, extra_files={"effdet": "{}"})
    return file


def changed(file: Path, target: Path, part: str, change) -> Path:
    """Write the archive with one of its parts changed: ``change`` gets its bytes, or None where it is not there."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w") as out:
        names = source.namelist()
        root = names[0].partition("/")[0]
        for name in names:
            if name != f"{root}/{part}":
                out.writestr(name, source.read(name))
        old = source.read(f"{root}/{part}") if f"{root}/{part}" in names else None
        out.writestr(f"{root}/{part}", change(old))
    return target


def in_json(change):
    def run(content: bytes) -> bytes:
        value = json.loads(content)
        change(value)
        return json.dumps(value).encode()

    return run


class Runs:
    """A pickle of it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def pickled(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(((Runs(marker),), {}), buffer)
    return buffer.getvalue()


def nodes(program):
    return program["graph_module"]["graph"]["nodes"]


WAYS = {
    "example-inputs": (
        "data/sample_inputs/model.pt",
        lambda marker: lambda _: pickled(marker),
        "example inputs that are",
    ),
    "weights": (
        "data/weights/model_weights_config.json",
        lambda marker: in_json(lambda value: value["config"]["conv.weight"].update(use_pickle=True)),
        "weights that are pickles",
    ),
    "object": (
        "data/constants/model_constants_config.json",
        lambda marker: in_json(
            lambda value: value["config"].update(x={"path_name": "opaque_obj_0", "use_pickle": False})
        ),
        "the constant opaque_obj_0, which is no tensor",
    ),
    "object-part": (
        "data/constants/opaque_obj_0",
        lambda marker: lambda _: pickle.dumps(Runs(marker)),
        "the part data/constants/opaque_obj_0",
    ),
    "old-weights": (
        "data/weights/model.pt",
        lambda marker: lambda _: pickled(marker),
        "the part data/weights/model.pt",
    ),
    "compiled": (
        "data/aotinductor/model/x.so",
        lambda marker: lambda _: b"\x7fELF",
        "the part data/aotinductor/model/x.so",
    ),
    "expression": (
        MODEL,
        lambda marker: in_json(
            lambda value: value["graph_module"]["graph"]["sym_int_values"].update(
                s={"as_expr": {"expr_str": f"__import__('os').system('touch {marker}')", "hint": None}}
            )
        ),
        "the text __import__.* as expr_str",
    ),
    "guards": (
        MODEL,
        lambda marker: in_json(lambda value: value.update(guards_code=[f"__import__('os').system('touch {marker}')"])),
        "'guards_code', which is code",
    ),
    "operator": (
        MODEL,
        lambda marker: in_json(lambda value: nodes(value)[-1].update(target="torch.hub.load")),
        "the operator torch.hub.load",
    ),
    "file": (
        MODEL,
        lambda marker: in_json(lambda value: nodes(value)[-1].update(target="torch.ops.aten.from_file.default")),
        "the operator torch.ops.aten.from_file.default",
    ),
    "name": (
        MODEL,
        lambda marker: in_json(lambda value: nodes(value)[0].update(name='x"); import os; ("')),
        "the text x",
    ),
    "dunder": (
        MODEL,
        lambda marker: in_json(lambda value: nodes(value)[0].update(name="a.__class__")),
        "the text a.__class__",
    ),
    "key": (
        MODEL,
        lambda marker: in_json(lambda value: value["range_constraints"].update({"a'b": {}})),
        "the name a'b",
    ),
    "argument": (
        MODEL,
        lambda marker: in_json(lambda value: nodes(value)[-1]["inputs"].append({"arg": {"as_custom_obj": {}}})),
        "an argument of the kind as_custom_obj",
    ),
    "tree": (
        MODEL,
        lambda marker: in_json(
            lambda value: value["graph_module"]["module_call_graph"][0]["signature"].update(
                in_spec='[1, {"type": "collections.namedtuple", "context": "null", "children_spec": []}]'
            )
        ),
        "arguments or results that are no tuples, lists or dicts",
    ),
    "tree-context": (
        MODEL,
        lambda marker: in_json(
            lambda value: value["graph_module"]["module_call_graph"][0]["signature"].update(
                in_spec='[1, {"type": "builtins.dict", "context": "[os.system]", "children_spec": []}]'
            )
        ),
        "arguments or results of a form that is not known",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_hide_code_is_taken(exported, tmp_path, way):
    part, change, message = WAYS[way]
    file = changed(exported, tmp_path / "x.pt2", part, change(tmp_path / "code-ran"))
    with pytest.raises(RefusedError, match=f"was not loaded: it holds {message}.*trust=True"):
        harmless_copy(file)
    with pytest.raises(ValueError, match=r"x.pt2 was not loaded: it holds .* load it with trust=True \(--trust\)$"):
        load_exported(file)
    assert not (tmp_path / "code-ran").exists()


def test_trust_is_asked_for_with_reason(exported, tmp_path):
    file = changed(
        exported, tmp_path / "x.pt2", "data/sample_inputs/model.pt", lambda _: pickled(tmp_path / "code-ran")
    )
    with pytest.raises(ValueError, match=r"x.pt2 is not a readable .pt2 file|holds no description"):
        load_exported(file, trust=True)
    assert (tmp_path / "code-ran").exists()


def test_a_harmless_file_computes_what_it_did(exported):
    images = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    checked, plain = TorchExport(exported), TorchExport(exported, trust=True)
    assert checked.description == plain.description == "{}"
    for ours, theirs in zip(checked.run(images), plain.run(images), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_layout_of_older_versions_needs_a_word(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(RefusedError, match="it holds the layout of an older PyTorch, whose parts are pickles"):
        harmless_copy(tmp_path / "x.pt2")


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        (MODEL, b"{", "its part models/model.json must be JSON"),
        (MODEL, b"[]", "its part models/model.json must be an object"),
        (MODEL, b"{}", "its part models/model.json has no list of operators"),
        ("archive_version", b"x", "the part archive_version"),
        ("data/weights/model_weights_config.json", b"{}", "weights that are pickles"),
    ],
)
def test_a_damaged_part_is_named(exported, tmp_path, part, content, message):
    file = changed(exported, tmp_path / "x.pt2", part, lambda _: content)
    with pytest.raises(ValueError, match=message):
        harmless_copy(file)


def test_other_files_are_not_opened(exported, tmp_path):
    (tmp_path / "x.pt2").write_bytes(exported.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"x.pt2 is not a readable .pt2 file: it holds no graph"):
        load_exported(tmp_path / "x.pt2")
    with zipfile.ZipFile(tmp_path / "y.pt2", "w") as archive:
        archive.writestr("y/nothing", "")
    with pytest.raises(ValueError, match=r"it holds no graph of torch.export; it is damaged"):
        harmless_copy(tmp_path / "y.pt2")
    (tmp_path / "w.pt2").write_bytes(b"PK")
    with pytest.raises(ValueError, match="File is not a zip file"):
        harmless_copy(tmp_path / "w.pt2")
    with zipfile.ZipFile(tmp_path / "z.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("z/data/weights/weight_0", bytes(300 << 20))
    with pytest.raises(ValueError, match=r"bytes of it would unpack to 314,572,800"):
        harmless_copy(tmp_path / "z.pt2")
