"""Checks of the classes of one split, and of the splits together."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from effdet.data.dataset import Dataset
from effdet.data.findings import Finding, found

FEW_BOXES = 20  # of a class in train; fewer seldom teach it
IMBALANCE = 100  # boxes of the most frequent class for one of a rare class
MAX_CLASSES_COMPARED = 500  # whose names are compared with one another
_SIMILAR_NAMES = 0.85  # ratio of difflib
_LONG_NAME = 6  # letters from which one other letter is taken for a slip


def class_counts(dataset: Dataset) -> dict[str, int]:
    """Return the number of boxes of every class, unused ones included."""
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    result: Counter[str] = Counter()
    for name, count in zip(dataset.class_names, counts.tolist(), strict=True):
        result[name] += count
    return dict(result)


def repeated(values: Iterable[str]) -> list[str]:
    """Return the values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def check_classes(dataset: Dataset, split: str) -> Iterator[Finding]:
    """Yield what is odd about the classes of a split."""
    counts = class_counts(dataset)
    advice = "give each class a name of its own, or join them"
    yield from found("warning", "class names are given twice", repeated(dataset.class_names), advice)
    advice = "write one class in one way"
    pairs = _same_names(dataset.class_names, counts)
    yield from found("warning", "class names differ only in capitals, spaces or signs", pairs, advice)
    pairs = _nearly_same_names(dataset.class_names, counts)
    yield from found("note", "class names are nearly the same", pairs, "if one is a slip, correct it")
    unused = [name for name, count in counts.items() if count == 0]
    if split in ("train", "data"):
        advice = "the network gets an output for each that never learns: remove them, or add images"
        yield from found("warning", "classes have no boxes", unused, advice)
        yield from _check_balance(counts)
    else:
        advice = "nothing measures whether the model finds them; divide the data anew: effdet data split"
        yield from found("note", "classes have no boxes", unused, advice)


def _check_balance(counts: dict[str, int]) -> Iterator[Finding]:
    most = max(counts.values(), default=0)
    commonest = next((name for name, count in counts.items() if count == most), "")
    few = [f"{name} ({count:,} boxes)" for name, count in counts.items() if 0 < count < min(FEW_BOXES, most)]
    text = f"classes have fewer than {FEW_BOXES} boxes to learn from"
    yield from found("note", text, few, "expect a low AP for them; add images that show them")
    rare = [f"{name} ({count:,} boxes)" for name, count in counts.items() if FEW_BOXES <= count * IMBALANCE < most]
    text = f"classes have less than 1/{IMBALANCE} of the boxes of {commonest} ({most:,})"
    yield from found("warning", text, rare, "add images that show them, or leave these classes out")


def _same_names(names: Iterable[str], counts: dict[str, int]) -> list[str]:
    first: dict[str, str] = {}
    pairs = [(first.setdefault(_letters(name), name), name) for name in dict.fromkeys(names)]
    return [_pair(one, other, counts) for one, other in pairs if one != other]


def written_alike(names: Iterable[str], counts: Mapping[str, int]) -> dict[str, str]:
    """Return for each name the one of those that differ only in capitals, spaces or signs that has most boxes."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        alike.setdefault(_letters(name), []).append(name)
    return {name: max(group, key=lambda one: counts[one]) for group in alike.values() for name in group}


def _letters(name: str) -> str:
    """Return what is left of a name without capitals, spaces and signs; the name itself if it has only signs."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name


def _nearly_same_names(names: Iterable[str], counts: dict[str, int]) -> list[str]:
    """Return pairs of names of which one has a few letters more, less or otherwise, and much fewer boxes."""
    unlike = list({_letters(name): name for name in names}.items())
    if len(unlike) > MAX_CLASSES_COMPARED:
        return []
    return [
        _pair(one, other, counts)
        for place, (letters, one) in enumerate(unlike)
        for others, other in unlike[place + 1 :]
        if _may_be_slip(letters, others) and min(counts[one], counts[other]) * 10 < max(counts[one], counts[other])
    ]


def _may_be_slip(one: str, other: str) -> bool:
    if one.rstrip("s") == other.rstrip("s") or sorted(one) == sorted(other):
        return True
    if min(len(one), len(other)) < _LONG_NAME or any(letter.isdigit() for letter in one + other):
        return False
    return difflib.SequenceMatcher(None, one, other).ratio() >= _SIMILAR_NAMES


def _pair(one: str, other: str, counts: dict[str, int]) -> str:
    return f"'{one}' ({counts[one]:,} boxes) and '{other}' ({counts[other]:,})"


# --- the splits together -------------------------------------------------------------------------------------------


def check_same_classes(train: Dataset, other: Dataset, split: str) -> Iterator[Finding]:
    """Compare the categories of a split with those of train, which a model learns. Names decide, else ids."""
    if _known(train, other):
        if train.category_ids != other.category_ids or train.class_names != other.class_names:
            text = f"categories of train and {split} have other ids or are not the same"
            yield Finding("note", text, "they are matched by name")
    else:
        known = {_folded(name): name for name in train.class_names}
        unknown = [_with_hint(name, known) for name in other.class_names if _folded(name) not in known]
        text = f"categories of {split} are not among those of train"
        yield from found("error", text, unknown or other.class_names, "a model finds only what train lists")
    learned, measured = class_counts(train), class_counts(other)
    unlearned = [
        f"{name} ({count} boxes)" for name, count in measured.items() if count and name in learned and not learned[name]
    ]
    text, advice = f"classes have boxes in {split} but none in train", "their AP will be 0; divide the data anew"
    yield from found("warning", text, unlearned, advice)


def _known(train: Dataset, other: Dataset) -> bool:
    """Whether every category of a split is one of train."""
    if any([str(i) for i in part.category_ids] == list(part.class_names) for part in (train, other)):
        return set(other.category_ids) <= set(train.category_ids)
    return set(map(_folded, other.class_names)) <= set(map(_folded, train.class_names))


def _with_hint(name: str, known: Mapping[str, str]) -> str:
    """Return a name with the most similar one of those that are known by their folded form."""
    near = difflib.get_close_matches(_folded(name), known, n=1)
    return f"{name}; did you mean {known[near[0]]}?" if near else name


def _folded(name: str) -> str:
    return name.strip().casefold()
