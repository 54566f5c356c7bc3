"""Readers of weights, checkpoints, descriptions and configs."""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import safetensors.torch
import torch

from effdet.config import load_config
from effdet.deployment.description import Description
from effdet.deployment.export import ExportOptions, describe
from effdet.detector.efficientdet import EfficientDet
from effdet.training.checkpoint import load_checkpoint
from effdet.weights.loading import load
from effdet.weights.own_format import save_folder
from effdet.weights.pickles import read_state
from effdet.weights.sources import read_file
from effdet.weights.sstable import read_table
from effdet.weights.tensorflow import read_checkpoint
from fuzz.mutations import dump_json, mutate_bytes, mutate_json
from fuzz.targets import Seeds, Target

_ROOT = Path(__file__).resolve().parents[2]
_TENSORFLOW = _ROOT / "tests" / "weights" / "tensorflow_checkpoints.zip"
_MODEL: list[EfficientDet] = []


def _model() -> EfficientDet:
    if not _MODEL:
        torch.manual_seed(0)
        _MODEL.append(EfficientDet("lite0", num_classes=2))
    return _MODEL[0]


def _few() -> dict[str, torch.Tensor]:
    return {"network.class_head.predict.pointwise.bias": torch.zeros(18), "a": torch.arange(6.0).reshape(2, 3)}


def _from_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], None]:
    def run(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        read(folder / name)

    return run


def mutate_json_text(content: bytes, rng: random.Random, seeds: Seeds) -> bytes:
    """Change values three times of four, bytes else."""
    if rng.random() < 0.25:
        return mutate_bytes(content, rng, seeds)
    return dump_json(mutate_json(json.loads(content), rng))


# -- safetensors, descriptions ---------------------------------------------------------------------------------------


def _safetensors() -> Seeds:
    described = {"format": "effdet-1", "description": json.dumps(_model().description())}
    return [safetensors.torch.save(_few(), described), safetensors.torch.save(_few(), {"format": "pt"})]


def _read_described(content: bytes, folder: Path) -> None:
    metadata = {"format": "effdet-1", "description": content.decode("utf-8", "replace")}
    (folder / "w.safetensors").write_bytes(safetensors.torch.save(_few(), metadata))
    load(folder / "w.safetensors")


def _folder_config() -> Seeds:
    return [
        _config_of_folder(),
        b'{"architecture": "efficientdet_d0", "pretrained_cfg": {"input_size": [3, 512, 512]}}',
    ]


def _config_of_folder() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save_folder(Path(folder) / "w", _few(), _model().description())
        return (Path(folder) / "w" / "config.json").read_bytes()


def _read_folder(content: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(_few()))
    (folder / "config.json").write_bytes(content)
    load(folder)


def _exported_description() -> Seeds:
    return [describe(_model(), ExportOptions(postprocess=nms)).to_json().encode() for nms in (False, True)]


def _read_exported_description(content: bytes, folder: Path) -> None:
    Description.from_json(content.decode("utf-8", "replace"), "model.onnx")


# -- pickles ---------------------------------------------------------------------------------------------------------


def _saved(state: object, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def _state_dicts() -> Seeds:
    state = {"model.a": torch.ones(2, 3), "model.b": torch.tensor(3), "c": torch.nn.Parameter(torch.zeros(4).half())}
    checkpoint = {"state_dict": state, "epoch": 3, "arch": "x", "list": [1, 2.5, None, "é"], "pair": (1, (2, 3))}
    return [_saved(content, zipped=zipped) for content in (state, checkpoint) for zipped in (True, False)]


def _mutate_pickle(content: bytes, rng: random.Random, seeds: Seeds) -> bytes:
    """Change the pickle inside of an archive every other time: the checksum of the archive would else hide it."""
    if not content.startswith(b"PK") or rng.random() < 0.3:
        return mutate_bytes(content, rng, seeds)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            member = source.read(name)
            target.writestr(name, mutate_bytes(member, rng, [pickle.dumps([1, (2,)], 2)]) if "pkl" in name else member)
    return buffer.getvalue()


def _checkpoints() -> Seeds:
    progress = {"step": 3, "history": [{"epoch": 1}], "best": 0.1, "sums": {"loss": 1.0}}
    parts = {"model": _few(), "ema": {"model": _few(), "count": 3}, "optimizer": {}, "scaler": {}, "progress": progress}
    return [_saved({"format": 1, **parts, "data": {"images": 3}})]


# -- TensorFlow ------------------------------------------------------------------------------------------------------


def _indexes() -> Seeds:
    with zipfile.ZipFile(_TENSORFLOW) as archive:
        return [archive.read(name) for name in archive.namelist() if name.endswith(".index")]


def _read_index(content: bytes, folder: Path) -> None:
    with zipfile.ZipFile(_TENSORFLOW) as archive:
        for name in ("kinds.data-00000-of-00001", "objects.data-00000-of-00001"):
            (folder / f"x.{name.partition('.')[2]}").write_bytes(archive.read(name))
    (folder / "x.index").write_bytes(content)
    read_checkpoint(folder / "x")


def _mutate_index(content: bytes, rng: random.Random, seeds: Seeds) -> bytes:
    """Change a block, and make its checksum fit, as its author could."""
    from effdet.weights.crc32c import masked_crc32c

    if rng.random() < 0.3:
        return mutate_bytes(content, rng, seeds)
    size = len(content) - 48
    end = _end_of_first_block(content, size)
    block = bytearray(content[: end - 4])
    for _ in range(rng.choice((1, 2, 5))):
        block[rng.randrange(len(block) - 1)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(block) + masked_crc32c(bytes(block)).to_bytes(4, "little") + content[end:]


@cache
def _end_of_first_block(content: bytes, size: int) -> int:
    return next((end for end in range(5, size + 1) if _is_block(content[:end])), size)


def _is_block(data: bytes) -> bool:
    from effdet.weights.crc32c import masked_crc32c

    return masked_crc32c(data[:-4]) == int.from_bytes(data[-4:], "little")


def _archives() -> Seeds:
    seeds = []
    for mode in ("w", "w:gz"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(_TENSORFLOW) as source, tarfile.open(fileobj=buffer, mode=mode) as archive:
            for name in ("kinds.index", "kinds.data-00000-of-00001"):
                info = tarfile.TarInfo(f"d0/{name}")
                info.size = source.getinfo(name).file_size
                archive.addfile(info, source.open(name))
        seeds.append(buffer.getvalue())
    return seeds


# -- configs ---------------------------------------------------------------------------------------------------------


def _configs() -> Seeds:
    bomb = "a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcd", "bcde", strict=True))
    return [(_ROOT / "configs" / f"{name}.yaml").read_bytes() for name in ("custom", "d0_coco")] + [bomb.encode()]


TARGETS = [
    Target("safetensors", _safetensors, _from_file("w.safetensors", load), in_ci=40),
    Target(
        "description of weights",
        lambda: [json.dumps(_model().description()).encode()],
        _read_described,
        mutate_json_text,
        in_ci=40,
    ),
    Target("config.json of a folder", _folder_config, _read_folder, mutate_json_text, in_ci=40),
    Target("description of an export", _exported_description, _read_exported_description, mutate_json_text, in_ci=40),
    Target("pickled weights", _state_dicts, _from_file("w.pth", read_state), _mutate_pickle, in_ci=40),
    Target(
        "weights of any kind",
        lambda: [*_safetensors(), *_state_dicts(), *_archives()],
        _from_file("w.bin", read_file),
        in_ci=20,
    ),
    Target("checkpoint of a run", _checkpoints, _from_file("last.ckpt", load_checkpoint), _mutate_pickle, in_ci=40),
    Target("TensorFlow index", _indexes, _read_index, _mutate_index, in_ci=40),
    Target(
        "sorted table", _indexes, lambda content, folder: void(read_table(content)), _mutate_index, share=4, in_ci=40
    ),
    Target("archive of a checkpoint", _archives, _from_file("x.tar.gz", read_checkpoint), in_ci=20),
    Target("config", _configs, _from_file("c.yaml", load_config), share=0.1, in_ci=20),
]


def void(value: object) -> None:
    """Use a value for nothing."""
