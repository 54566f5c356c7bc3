"""This project's own files: one ``.safetensors`` with the weights and all that is needed to use them, or a folder."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from effdet.atomic_write import replace_file
from effdet.weights.limits import check_size, check_tensors, first_line, parse_json

FORMAT = "effdet-1"
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"  # of a folder, as timm and the hub name them

_FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".tgz", ".gz", ".h5", ".onnx", ".zip")


def save_native(path: str | Path, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write weights and their description (plain JSON values) atomically.

    Raises:
        ValueError: If the name does not end in ``.safetensors``.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are saved as .safetensors, got '{path}'; nearest valid: '{path}.safetensors'")
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    metadata = {"format": FORMAT, "description": json.dumps(dict(description))}
    _write(path, safetensors.torch.save(tensors, metadata=metadata))


def save_tensors(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write a plain state dict, as other projects have it: ``.pth`` or ``.pt``, or ``.safetensors``; atomically.

    Raises:
        ValueError: If the name has another ending.
    """
    path = Path(path)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if path.suffix == ".safetensors":
        _write(path, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    elif path.suffix in (".pth", ".pt"):
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        _write(path, buffer.getvalue())
    else:
        raise ValueError(f"a state dict is saved as .pth, .pt or .safetensors, got '{path}'")


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors of any ``.safetensors`` file, and the description if ``save_native`` wrote it, unchecked.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} do not exist")
    check_size(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # SafetensorError, or what PyTorch says about a type or a shape that it does not know
        raise ValueError(
            f"{path} is not a readable .safetensors file: {first_line(error)}; it is damaged or incomplete"
        ) from error
    check_tensors(state, str(path), size=path.stat().st_size)
    return state, _description(path, metadata) if metadata.get("format") == FORMAT else None


def _description(path: Path, metadata: Mapping[str, str]) -> Any:
    if "description" not in metadata:
        raise ValueError(f"{path} must have a description of its model beside the format {FORMAT}; it is damaged")
    return parse_json(metadata["description"], f"{path}: its description")


def is_folder(path: str | Path) -> bool:
    """Return whether weights of this name are saved as a folder: unless it ends as files of weights do."""
    path = Path(path)
    return path.is_dir() or path.suffix.lower() not in _FILE_SUFFIXES


def save_folder(
    folder: str | Path, state: Mapping[str, Tensor], description: Mapping[str, Any], *, source: str | None = None
) -> None:
    """Write a folder of timm's and the hub's style: config.json, model.safetensors, and README.md if there is none.

    Each file is replaced atomically; ``model.safetensors`` is complete without the others.

    Args:
        folder: Is made if there is none.
        state: Weights by name.
        description: Plain JSON values.
        source: What the README loads; default: the folder.
    """
    folder = Path(folder)
    save_native(folder / WEIGHTS, state, description)
    _write(folder / CONFIG, (json.dumps(hub_config(description), indent=2, ensure_ascii=False) + "\n").encode())
    if not (folder / CARD).exists():
        _write(folder / CARD, model_card(description, source or folder.name).encode())


def hub_config(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``config.json`` holds: timm's entries, and our description under ``effdet``."""
    height, width = description["image_size"]
    return {
        "architecture": description["name"],
        "num_classes": description["num_classes"],
        "label_names": list(description["class_names"]),
        "pretrained_cfg": {
            "input_size": [len(description["mean"]), height, width],
            "mean": [value / 255 for value in description["mean"]],
            "std": [value / 255 for value in description["std"]],
            "interpolation": "bilinear",
        },
        "effdet": dict(description),
    }


def model_card(description: Mapping[str, Any], source: str) -> str:
    """Return a short README for a folder of weights, with the front matter that the hub reads."""
    names = list(description["class_names"])
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    height, width = description["image_size"]
    return f"""---
library_name: effdet
pipeline_tag: object-detection
tags: [efficientdet, object-detection]
---

# EfficientDet `{description["name"]}`

An object detector for {len(names)} class{"" if len(names) == 1 else "es"} ({shown}), input {height}×{width} pixels.

```python
from effdet import EfficientDet

model = EfficientDet.from_pretrained("{source}")
for found in model.predict("photo.jpg")[0]:
    print(found.class_name, found.score, found.box)
```
"""


def _write(path: Path, data: bytes) -> None:
    """Replace a file in one step; after a failure the old one is still there, and nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as file:
        file.write(data)
