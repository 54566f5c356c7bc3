"""Match the classes of a model with the categories of a data set, whose ids and order may differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from effdet.structures import Detections


def match_categories(
    class_names: Sequence[str],
    category_ids: Sequence[int],
    *,
    dataset_names: Sequence[str],
    dataset_ids: Sequence[int],
) -> tuple[int | None, ...]:
    """Return the data set's category id of each class of the model; None for a class that the data set lacks.

    A category is the class with the same id and name. If not all categories have one, names alone decide; upper and
    lower case are the same. If the model or the data set has numbers for names, ids alone decide. Every category must
    have a class; the model may have more classes.

    Args:
        class_names: Of the model, one per label.
        category_ids: Of the model, one per label.
        dataset_names: Of the data set, one per category.
        dataset_ids: Of the data set, one per category.

    Raises:
        ValueError: If a category of the data set is not among the model's classes.
    """
    wanted = dict(zip(dataset_ids, map(_folded, dataset_names), strict=True))
    own = dict(zip(category_ids, map(_folded, class_names), strict=True))
    ids_decide = _are_numbers(class_names, range(len(class_names))) or _are_numbers(dataset_names, dataset_ids)
    if all(key in own and (ids_decide or own[key] == name) for key, name in wanted.items()):
        return tuple(category_id if category_id in wanted else None for category_id in category_ids)

    id_of = {name: key for key, name in wanted.items()}
    if len(id_of) == len(wanted) and id_of.keys() <= set(own.values()) and len(set(own.values())) == len(own):
        return tuple(id_of.get(_folded(name)) for name in class_names)
    raise ValueError(
        "the model's classes must include the data set's categories, by id and name or by name; "
        f"the model has {_listed(category_ids, class_names)}, the data set {_listed(dataset_ids, dataset_names)}"
    )


def to_categories(detections: Detections, category_ids: Sequence[int | None]) -> Detections:
    """Return the detections with the category ids of ``match_categories``, without the classes that it left out."""
    known = np.array([category_id is not None for category_id in category_ids], dtype=bool)
    boxes, labels, scores = detections.numpy()
    keep = known[labels]
    ids = tuple(-1 if category_id is None else category_id for category_id in category_ids)
    names, size, source = detections.class_names, detections.image_size, detections.source
    return Detections(boxes[keep], labels[keep], scores[keep], names, ids, size, source)


def _are_numbers(names: Sequence[str], numbers: Sequence[int]) -> bool:
    return list(names) == [str(number) for number in numbers]


def _folded(name: str) -> str:
    return name.strip().casefold()


def _listed(ids: Sequence[int], names: Sequence[str]) -> str:
    some = ", ".join(f"{category_id} {name}" for category_id, name in list(zip(ids, names, strict=True))[:10])
    return f"{len(ids)} ({some}{', …' if len(ids) > 10 else ''})"
