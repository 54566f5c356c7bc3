"""The readers that are tried with damaged and hostile files, each with seeds and a way to change them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fuzz.mutations import mutate_bytes

Seeds = list[bytes]


@dataclass(frozen=True)
class Target:
    """One reader."""

    name: str
    seeds: Callable[[], Seeds]
    read: Callable[[bytes, Path], None]  # of content and an empty folder; raises ValueError or OSError where it refuses
    mutate: Callable[[bytes, random.Random, Seeds], bytes] = mutate_bytes
    share: float = 1.0  # of the inputs of a run over all targets
    in_ci: int = 25  # inputs in the daily tests

    @cache  # noqa: B019
    def known_seeds(self) -> Seeds:
        """Return the seeds, which are made once."""
        return self.seeds()

    def input(self, number: int) -> bytes:
        """Return input number ``number``, the same on every machine."""
        rng = random.Random(f"{self.name} {number}")
        seeds = self.known_seeds()
        return self.mutate(rng.choice(seeds), rng, seeds)


def is_clean(error: BaseException) -> str:
    """Return what is wrong with the error of a reader; empty if it is one short sentence of the right kind."""
    if not isinstance(error, ValueError | OSError) or isinstance(error, UnicodeError):
        return f"{type(error).__name__} instead of a ValueError or OSError"
    if type(error).__module__ in ("json.decoder", "json"):
        return "an error of the JSON reader"
    text = str(error)
    if not text:
        return "no message"
    if "\n" in text or "\r" in text:
        return "a message of several lines"
    return f"a message of {len(text)} characters" if len(text) > 1500 else ""


def all_targets() -> dict[str, Target]:
    """Return every target by its name."""
    from fuzz import data_targets, export_targets, image_targets, weight_targets

    modules = (weight_targets, data_targets, image_targets, export_targets)
    return {target.name: target for module in modules for target in module.TARGETS}
