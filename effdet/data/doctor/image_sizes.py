"""Annotated sizes of images that do not suit the boxes, where those of the image files do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import Dataset
from effdet.data.doctor.image_files import ImageFile
from effdet.data.findings import Finding, found_at

Array = NDArray[Any]

EXCHANGED = "annotated width and height of images are exchanged"
OUTSIDE = "boxes lie outside of the annotated size of their image, and inside of that of its file"
TURNED = "boxes fit their images only with width and height exchanged, as EXIF turns the images"

_SLACK = 0.02  # of the image's sides, by which annotators draw over its edge
_FAR_OUT = 0.1  # of the image's sides, by which nobody draws over its edge
_MOST = 0.5  # part of the images with such boxes, from which the annotated sizes of all are taken to be wrong
_SIDES_SWAP = 5  # EXIF orientations from this one on exchange width and height
_FEWEST = 3  # turned images whose boxes do not fit, for a rule to be seen in them
_RIGHT = 0.98  # part of the turned images whose boxes must fit once width and height are exchanged


@dataclass(frozen=True)
class FittedSizes:
    """Sizes of images that suit the boxes."""

    sizes: Array  # (I, 2) height, width
    changed: Mapping[str, Array]  # numbers of the images whose size is another one now, by what was wrong

    def findings(self, dataset: Dataset) -> Iterator[Finding]:
        """Yield what was wrong."""
        advice = "correct the annotated width and height; --fix does"
        for text, images in self.changed.items():
            yield from found_at("error", text, images, dataset.names.__getitem__, advice)


def fit_sizes(dataset: Dataset, files: Mapping[str, ImageFile]) -> FittedSizes:
    """Return the sizes of images that suit the boxes: those of the annotations, or else those of the files.

    Args:
        dataset: The images.
        files: What opening them told, by their name.
    """
    opened = [files[name] for name in dataset.names]
    given = dataset.sizes
    has_fault = np.array([file.fault == "size" and 0 not in file.size for file in opened], dtype=bool)
    is_turned = np.array([not file.fault and file.orientation >= _SIDES_SWAP for file in opened], dtype=bool)
    others = np.array([file.size if file.fault == "size" else (0, 0) for file in opened], np.int64).reshape(-1, 2)
    others[is_turned] = given[is_turned][:, ::-1]
    fits, fits_other = (_num_outside(dataset, sizes, _SLACK) == 0 for sizes in (given, others))
    is_far_out = _num_outside(dataset, given, _FAR_OUT) > 0

    is_exchanged = has_fault & (others == given[:, ::-1]).all(axis=1)
    is_exchanged &= _num_outside(dataset, others, _SLACK) <= _num_outside(dataset, given, _SLACK)
    is_outside = has_fault & fits_other & ~is_exchanged
    if not is_outside.any() or is_far_out[is_outside].mean() < _MOST:  # the others may be resized, with their boxes
        is_outside &= is_far_out
    is_turned &= (given > 0).all(axis=1)
    num_wrong = int((is_turned & ~fits & fits_other).sum())
    if num_wrong < _FEWEST or fits_other[is_turned].mean() < max(_RIGHT, fits[is_turned].mean()):
        is_turned[:] = False
    kinds = {EXCHANGED: is_exchanged, OUTSIDE: is_outside, TURNED: is_turned}
    is_changed = is_exchanged | is_outside | is_turned
    return FittedSizes(
        np.where(is_changed[:, None], others, given),
        {text: np.flatnonzero(which) for text, which in kinds.items() if which.any()},
    )


def _num_outside(dataset: Dataset, sizes: Array, slack: float) -> Array:
    """Return (I,) how many boxes of each image reach out of these sizes (I, 2) by more than a part of its sides."""
    limits = sizes[dataset.image_of_box][:, ::-1]
    ends = dataset.boxes_xywh[:, :2] + dataset.boxes_xywh[:, 2:]
    inside = (dataset.boxes_xywh[:, :2] >= -slack * limits) & (ends <= (1 + slack) * limits)
    return np.bincount(dataset.image_of_box[~inside.all(axis=1)], minlength=len(dataset))
