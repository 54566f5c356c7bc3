"""What a format is: how it finds its files below a folder, how it reads them, and how it writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from effdet.data.dataset import Dataset

if TYPE_CHECKING:
    from effdet.data.image_copies import ImageCopies

Split: TypeAlias = Literal["train", "val", "test"]
Part: TypeAlias = Literal["train", "val", "test", "all"]  # "all" is a data set that is not divided

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Source:
    """Where one part of a data set is, as its format found it."""

    annotations: Path  # the annotation file, or the folder of the annotation files; messages name it
    folders: tuple[Path, ...] = ()  # candidates for the image folder; the names in the annotations tell which one it is
    format: str = "coco"  # name of the format that reads it
    details: Any = None  # what else that format has to know
    names_file: Path | None = None  # a file of ``effdet data split`` that says which images belong to this part
    part: Part = "all"  # of the data set
    keep_parent: bool = False  # a category without boxes that only is the parent of all others is a class, too
    root: Path | None = (
        None  # folder of the whole data set, where class lists and images are looked for; None: not known
    )

    def folders_upwards(self) -> tuple[Path, ...]:
        """Return the folder of the annotations, and those that it lies in up to that of the whole data set."""
        home = self.annotations if self.annotations.is_dir() else self.annotations.parent
        if self.root is None or not home.is_relative_to(self.root):
            return (home,)
        above = [parent for parent in home.parents if parent.is_relative_to(self.root)]
        return (home, *above)


Found: TypeAlias = dict[Part, Source]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to store a data set."""

    name: str  # the word for it in commands
    title: str  # for messages and docs
    find: Callable[[Path], Found]  # a folder or file -> its parts; empty if it is in another format
    read: Callable[[Source], Dataset]  # raises DataError if nothing can be read; smaller faults become findings
    write: Callable[[Mapping[Part, Dataset], ImageCopies], None] | None = None  # None: it is only read
    cannot_hold: str = ""  # what a data set loses on being written
