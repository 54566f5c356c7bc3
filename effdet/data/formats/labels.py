"""Class names that objects carry as text, to labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from effdet.data.findings import FindingList
from effdet.data.formats.values import is_encodable


class Codes:
    """Numbers texts in the order in which they first come.

    Args:
        clean: What a text becomes first; None where it is of no use.
    """

    def __init__(self, clean: Callable[[str], str | None] = str) -> None:
        self._clean = clean
        self._code_of_raw: dict[str, int] = {}
        self._code_of: dict[str, int] = {}

    def __call__(self, texts: Collection[str]) -> NDArray[np.int64]:
        """Return the number of each text, -1 for those that are of no use."""
        for text in dict.fromkeys(texts):  # each once, as most come many times
            if text not in self._code_of_raw:
                cleaned = self._clean(text)
                code = -1 if cleaned is None else self._code_of.setdefault(cleaned, len(self._code_of))
                self._code_of_raw[text] = code
        return np.fromiter(map(self._code_of_raw.__getitem__, texts), np.int64, len(texts))

    @property
    def texts(self) -> list[str]:
        """All texts, each at the place of its number."""
        return list(self._code_of)


def class_name(text: str) -> str | None:
    """Return a class name with single spaces and none around; None if nothing is left, or it has no UTF-8 form."""
    name = " ".join(text.split())
    return name if name and is_encodable(name) else None


SHIFTED = "numbers of classes seem to be one too "  # high, or low


def check_class_numbers(
    unlisted: Collection[int], used: Collection[int], listed: Collection[int], findings: FindingList
) -> None:
    """Say so where the numbers of all classes seem to be one too high or too low, so that no label is right.

    Args:
        unlisted: Numbers that boxes have, and no class.
        used: Numbers that boxes and a class have.
        listed: Numbers of all classes.
        findings: Takes an error.
    """
    for shift, word, advice in ((1, "high", "subtract 1 from each"), (-1, "low", "add 1 to each")):
        if unlisted and {number - shift for number in (*unlisted, *used)} <= set(listed):
            free = min(set(listed) - set(used)) if shift > 0 else max(set(listed) - set(used))
            given = max(unlisted) if shift > 0 else min(unlisted)
            text = f"{SHIFTED}{word}: {given} is not listed, and {free} has no box"
            findings.add("error", text, advice=f"{advice}, or list the class that is missing")


def number_labels(
    names: Sequence[str], listed: Sequence[str], findings: FindingList
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the class names, and the label of each object.

    Args:
        names: Class name of each object.
        listed: All classes in the order of a class list; empty: the names that occur, sorted.
        findings: Takes a warning for names that the list lacks.
    """
    codes = Codes()
    numbers = codes(names)
    classes, labels = order_classes(codes.texts, listed, findings)
    return classes, labels[numbers]


def order_classes(
    used: Sequence[str], listed: Sequence[str], findings: FindingList
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the class names, and the label of each name in ``used``; arguments as for ``number_labels``."""
    classes = list(listed) or sorted(used)
    unknown = sorted(set(used) - set(classes))
    advice = "add them to the list; until then they are classes behind the others"
    findings.add_all("warning", "classes are not in the class list", unknown, repr, advice)
    classes += unknown
    label_of = {name: label for label, name in reversed(list(enumerate(classes)))}
    return classes, np.array([label_of[name] for name in used], dtype=np.int64)
