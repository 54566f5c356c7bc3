"""The reader of .pt2 files; other exports are opened by other projects' runtimes, and only their descriptions by us."""

from __future__ import annotations

import io
import json
import random
import zipfile
from functools import cache
from pathlib import Path

import torch

from effdet.deployment.harmless_pt2 import harmless_copy
from fuzz.mutations import dump_json, mutate_bytes, mutate_json
from fuzz.targets import Seeds, Target


class _Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(self.conv(images))


@cache
def _exported() -> Seeds:
    torch.manual_seed(0)
    program = torch.export.export(_Small().eval(), (torch.zeros(1, 3, 8, 8),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"effdet": "{}"})
    return [buffer.getvalue()]


def _mutate(content: bytes, rng: random.Random, seeds: Seeds) -> bytes:
    """Change the JSON or the bytes of one part."""
    if rng.random() < 0.2:
        return mutate_bytes(content, rng, seeds)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w") as target:
        chosen = rng.choice([name for name in source.namelist() if rng.random() < 0.3 or "json" in name])
        for name in source.namelist():
            part = source.read(name)
            if name == chosen:
                is_json = name.endswith(".json") and rng.random() < 0.8
                part = dump_json(mutate_json(json.loads(part), rng)) if is_json else mutate_bytes(part, rng, seeds)
            target.writestr(name, part)
    return buffer.getvalue()


def _read(content: bytes, folder: Path) -> None:
    (folder / "x.pt2").write_bytes(content)
    harmless_copy(folder / "x.pt2")


TARGETS = [Target(".pt2 file", _exported, _read, _mutate)]
