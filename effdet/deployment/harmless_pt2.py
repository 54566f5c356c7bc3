"""Open a ``.pt2`` file of ``torch.export`` only after every part of it has been seen to be harmless.

``torch.export.load`` unpickles the example inputs, and weights and constants that say so, with any code in them; it
gives sizes of tensors to SymPy, which evaluates Python; it runs guards, which are Python too; and a graph may call any
function of the module ``torch``. So nothing that a file says about its origin can make it safe to open, and this module
does not ask for that: it copies the parts that a network needs into a new archive, each checked by what it may hold,
and PyTorch sees only the copy. A file that needs anything else is refused by name.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from effdet.deployment.pt2_operators import is_operator
from effdet.deployment.runtimes import RefusedError
from effdet.weights.limits import MAX_FILE, first_line, parse_json, short
from effdet.weights.pickles import load_plain_bytes

_MODEL = "models/model.json"
_INPUTS = "data/sample_inputs/model.pt"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_NUMBERS = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")  # raw values of one tensor
_FIXED = {  # small parts, and what may stand in them
    "archive_format": re.compile(rb"pt2"),
    "archive_version": re.compile(rb"\d{1,4}"),
    "byteorder": re.compile(rb"little|big"),
    ".data/version": re.compile(rb"\d+\n?"),
    ".data/serialization_id": re.compile(rb"\d{1,64}"),
}
_EXTRA = re.compile(r"extra/\w+")  # texts that PyTorch hands over as they are

_MAX_JSON = 1 << 28  # bytes of the graph; that of a D7x takes 5 million
_SMALL, _LARGEST_RATIO = 1 << 28, 8  # as of weights

_NAME = re.compile(r"[A-Za-z0-9_.\- ]*")  # in Python code that PyTorch makes, such a text is a name or quoted
_EQUATION = re.compile(r"[A-Za-z0-9_.\- ,>]*")
_EXPRESSION = re.compile(r"-?\d{1,18}|Symbol\('[A-Za-z]\w{0,40}'(?:, (?:positive|integer|nonnegative|real)=True)*\)")
_VERSION = re.compile(r"[\w.+\- ]{0,80}")
_TREE_TYPES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_ARGUMENTS = frozenset(
    {f"as_{kind}" for kind in ("tensor", "int", "float", "bool", "string", "none", "name", "expr", "scalar_type")}
    | {f"as_{kind}s" for kind in ("tensor", "int", "float", "bool", "string", "sym_int", "sym_bool", "sym_float")}
    | {f"as_{kind}" for kind in ("sym_int", "sym_bool", "sym_float", "memory_format", "layout", "device")}
    | {"as_optional_tensor", "as_optional_tensors", "as_int_lists", "as_complex"}
)
_EMPTY = ("guards_code", "custom_obj_values", "treespec_namedtuple_fields")  # Python code, and objects that it makes


def harmless_copy(file: Path) -> io.BytesIO:
    """Return a copy of a ``.pt2`` file that cannot run code when PyTorch loads and runs it.

    Raises:
        RefusedError: If the file holds a part that could.
        ValueError: If it is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_room(archive, file.stat().st_size)
            return _copied(dict(_members(archive)))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeError) as error:
        raise ValueError(first_line(error)) from error


def _check_room(archive: zipfile.ZipFile, size: int) -> None:
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > min(MAX_FILE, max(_SMALL, _LARGEST_RATIO * size)):
        raise ValueError(f"{size:,} bytes of it would unpack to {unpacked:,}")


def _members(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    """Yield the parts by their names below the archive's one folder."""
    for entry in archive.infolist():
        name = entry.filename.partition("/")[2]
        if name.endswith(".json") and entry.file_size > _MAX_JSON:
            raise ValueError(f"its part {short(name)} has {entry.file_size:,} bytes")
        yield name, archive.read(entry)


def _copied(parts: dict[str, bytes]) -> io.BytesIO:
    if _MODEL not in parts:
        if "" in parts:
            raise _refusal("the layout of an older PyTorch, whose parts are pickles")
        raise ValueError("it holds no graph of torch.export; it is damaged, or another file")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as copy:
        for name, content in parts.items():
            copy.writestr(f"archive/{name}", _checked(name, content))
    buffer.seek(0)
    return buffer


def _checked(name: str, content: bytes) -> bytes:
    """Return the content of a part as it goes into the copy."""
    if name == _MODEL:
        return json.dumps(_checked_graph(_json(name, content))).encode()
    if name in _CONFIGS:
        return json.dumps(_checked_config(_json(name, content))).encode()
    if name == _INPUTS:
        return _without_code(content)
    is_fixed = name in _FIXED and _FIXED[name].fullmatch(content)
    if is_fixed or _NUMBERS.fullmatch(name) or _EXTRA.fullmatch(name):
        return content
    raise _refusal(f"the part {short(name)}")


def _json(name: str, content: bytes) -> dict[str, Any]:
    value = parse_json(content, f"its part {name}", most=_MAX_JSON)
    if not isinstance(value, dict):
        raise ValueError(f"its part {name} must be an object")
    return value


def _without_code(pickled: bytes) -> bytes:
    """Return a pickle of tensors and plain values, made anew from what an unpickler that runs no code finds."""
    try:
        value = load_plain_bytes(pickled)
    except ValueError as error:
        raise _refusal("example inputs that are more than tensors") from error
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _checked_config(config: dict[str, Any]) -> dict[str, Any]:
    """Check the list of weights or constants: all must be raw values."""
    _check_values(config)
    entries = config.get("config")
    for entry in entries.values() if isinstance(entries, dict) else [None]:
        path = entry.get("path_name") if isinstance(entry, dict) else None
        if entry is None or not isinstance(path, str) or entry.get("use_pickle") is not False:
            raise _refusal("weights that are pickles")
        if not re.fullmatch(r"(?:weight|tensor)_\d+", path):
            raise _refusal(f"the constant {short(path)}, which is no tensor")
    return config


def _checked_graph(program: dict[str, Any]) -> dict[str, Any]:
    _forget_origins(program)
    _check_values(program)
    return program


def _forget_origins(program: dict[str, Any]) -> None:
    """Take away where each operator stood in a program: texts of any form, which nothing needs."""
    module = program.get("graph_module")
    graph = module.get("graph") if isinstance(module, dict) else None
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    if not isinstance(nodes, list):
        raise ValueError(f"its part {_MODEL} has no list of operators")
    for node in nodes:
        if isinstance(node, dict):
            node["metadata"] = {}


def _check_values(value: Any) -> None:
    """Check every name and every text of a JSON value by where it stands."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        key, inner = waiting.pop()
        if key in _EMPTY and inner:
            raise _refusal(f"'{key}', which is code")
        if isinstance(inner, dict):
            for name, item in inner.items():
                if not _NAME.fullmatch(name) or ("__" in name and name.startswith("_")):
                    raise _refusal(f"the name {short(name)}")
                if name.startswith("as_") and name not in _ARGUMENTS:
                    raise _refusal(f"an argument of the kind {short(name)}")
                waiting.append((name, item))
        elif isinstance(inner, list):
            waiting += [(key, item) for item in inner]
        elif isinstance(inner, str):
            _check_text(key, inner)


def _check_text(key: str, text: str) -> None:
    if key == "target":
        if not is_operator(text):
            raise _refusal(f"the operator {short(text)}")
    elif key in ("in_spec", "out_spec"):
        _check_tree(text)
    elif not _TEXTS.get(key, _NAME).fullmatch(text) or re.search(r"(?:^|\.)__", text):
        raise _refusal(f"the text {short(text)} as {short(key)}")


_TEXTS = {"expr_str": _EXPRESSION, "torch_version": _VERSION, "as_string": _EQUATION}


def _check_tree(text: str) -> None:
    """Check the description of nested arguments or results: tuples, lists and dicts, no classes by name."""
    waiting = [parse_json(text, "the form of its arguments")]
    if isinstance(waiting[0], list):
        waiting = waiting[0][1:]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict) or node.get("type") not in _TREE_TYPES:
            raise _refusal("arguments or results that are no tuples, lists or dicts")
        context = node.get("context")
        if not (
            context is None or (isinstance(context, str) and re.fullmatch(r"null|\[(?:\"\w+\"(?:, )?)*\]", context))
        ):
            raise _refusal("arguments or results of a form that is not known")
        children = node.get("children_spec")
        waiting += children if isinstance(children, list) else []


def _refusal(what: str) -> RefusedError:
    return RefusedError(
        f"was not loaded: it holds {what}, so that opening it could run code; if you know who made it, load it with "
        "trust=True (--trust)"
    )
