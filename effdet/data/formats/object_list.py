"""Objects that a reader meets one by one, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from effdet.data.dataset import Dataset
from effdet.data.findings import FindingList
from effdet.data.formats.columns import Columns, to_dataset
from effdet.data.formats.labels import number_labels
from effdet.data.formats.shapes import Box
from effdet.data.image_lists import resolve_names
from effdet.data.text_column import TextColumn


@dataclass
class ObjectList:
    """Images and objects, in the order in which they are added."""

    findings: FindingList = field(default_factory=FindingList)
    names: list[str] = field(default_factory=list)  # I
    sizes: list[tuple[int, int]] = field(default_factory=list)  # I, height, width
    images: list[int] = field(default_factory=list)  # M
    boxes: list[Box] = field(default_factory=list)  # M
    labels: list[str] = field(default_factory=list)  # M

    def add_image(self, name: str, size: tuple[int, int]) -> None:
        """Add an image; the objects that follow are on it."""
        self.names.append(name)
        self.sizes.append(size)

    def add(self, box: Box, label: str) -> None:
        """Add an object to the last image."""
        self.images.append(len(self.names) - 1)
        self.boxes.append(box)
        self.labels.append(" ".join(label.split()))

    def to_dataset(self, file: Path, folders: Sequence[Path], listed: Sequence[str]) -> Dataset:
        """Return the data set; ``listed`` are its classes in their order, where a list of them is known."""
        class_names, labels = number_labels(self.labels, listed, self.findings)
        folder, names = resolve_names(self.names, folders)
        return to_dataset(
            Columns(
                file=file,
                folders=[folder],
                names=TextColumn.from_texts(names),
                images=np.array(self.images, dtype=np.int64),
                boxes=np.array(self.boxes, dtype=np.float64).reshape(-1, 4),
                labels=labels,
                class_names=class_names,
                sizes=np.array(self.sizes, dtype=np.int64).reshape(-1, 2),
                findings=self.findings,
            )
        )
