"""Images of a data set that look the same: within a split, and across the splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from effdet.data.dataset import Dataset
from effdet.data.findings import Finding, Severity, found
from effdet.data.near_duplicates import group_hashes, hash_images
from effdet.progress import Report

_FEW = 0.01  # of the images of a split; a leak of fewer hardly changes its AP
_MANY = 0.2  # of the images: more than that are a video, or were augmented on disk


class AlikeImages:
    """The groups of images that look the same, of all splits together.

    Args:
        splits: By name.
        report: Called after each image.
        known: For each split the hashes of images, by name, that are known already.

    Raises:
        ImportError: If the package imagehash is missing.
    """

    def __init__(
        self, splits: Mapping[str, Dataset], report: Report, known: Mapping[str, Mapping[str, bytes]] | None = None
    ) -> None:
        self._splits = dict(splits)
        known = known or {}
        of_split = {
            split: hash_images(dataset, "similar", report, known=known.get(split)) for split, dataset in splits.items()
        }
        self.hashes = {  # of each split, by name
            split: dict(zip(splits[split].names, values, strict=True)) for split, values in of_split.items()
        }
        groups = group_hashes([value for values in of_split.values() for value in values], "similar")
        ends = np.cumsum([len(dataset) for dataset in splits.values()])
        self._groups = dict(zip(splits, np.split(groups, ends[:-1]), strict=True))

    def check(self, known: Mapping[str, set[str]]) -> Iterator[tuple[str, Finding]]:
        """Yield the splits' names, "" for several, and what is to be said.

        Args:
            known: For each split, the names of images that are known to be copies, byte for byte.
        """
        for split, dataset in self._splits.items():
            pairs = [pair for pair in self._within(split) if pair.split(" ~ ")[0] not in known[split]]
            severity: Severity = "warning" if len(pairs) > _MANY * len(dataset) else "note"
            advice = "copies teach nothing new; keep one of each, and keep them in one split"
            for finding in found(severity, "images look the same as another one", pairs, advice):
                yield split, finding
        if "train" in self._splits:
            for split in self._splits:
                if split != "train":
                    yield from (("", finding) for finding in self._across(split, known[split]))

    def _within(self, split: str) -> list[str]:
        names = self._splits[split].names
        first: dict[int, int] = {}
        return [
            f"{names[index]} ~ {names[first[group]]}"
            for index, group in enumerate(self._groups[split].tolist())
            if first.setdefault(group, index) != index and names[index] != names[first[group]]
        ]

    def _across(self, split: str, known: set[str]) -> Iterator[Finding]:
        train, other = self._splits["train"], self._splits[split]
        in_train = {group: index for index, group in reversed(list(enumerate(self._groups["train"].tolist())))}
        pairs = [
            f"{other.names[index]} ~ {train.names[in_train[group]]}"
            for index, group in enumerate(self._groups[split].tolist())
            if group in in_train and other.names[index] not in known
        ]
        severity: Severity = "warning" if len(pairs) > _FEW * len(other) else "note"
        advice = (
            "the AP counts them as new images; divide the data anew with effdet data split, which keeps them together"
        )
        yield from found(severity, f"images of {split} look the same as one of train", pairs, advice)
