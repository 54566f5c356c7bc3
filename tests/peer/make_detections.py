"""Post-process logits and deltas with PyPI effdet: python make_detections.py IN.npz OUT.npz.

IN: logits (B, N, K), deltas (B, N, 4) as ty, tx, th, tw; image_size (2,); scales (B,) original per network pixel and
sizes (B, 2) width, height of the originals. OUT: (B, 100, 6) x1, y1, x2, y2, score, class + 1 of each kind of NMS with
and without the images' scales and sizes, as hard_with_info, hard_without_info, soft_…; anchors (N, 4) yxyx.
"""

import sys

import numpy as np
import torch
from effdet.anchors import Anchors
from effdet.bench import _batch_detection, _post_process

OCTAVES, SHAPES = 3, ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))


def to_levels(rows, anchors):
    """(B, N, C) → one (B, A·C, H, W) for each level."""
    levels, start = [], 0
    for height, width in anchors.feat_sizes[3:8]:
        count = height * width * OCTAVES * len(SHAPES)
        cells = rows[:, start : start + count].reshape(len(rows), height, width, -1)
        levels.append(cells.permute(0, 3, 1, 2))
        start += count
    return levels


def main(source, target):
    given = {name: torch.from_numpy(value) for name, value in np.load(source).items()}
    anchors = Anchors(3, 7, OCTAVES, SHAPES, 4.0, tuple(given["image_size"].tolist()))
    num_classes = given["logits"].shape[-1]
    points = _post_process(
        to_levels(given["logits"], anchors),
        to_levels(given["deltas"], anchors),
        num_levels=5,
        num_classes=num_classes,
    )
    logits, deltas, indices, classes = points
    arguments = (len(logits), logits, deltas, anchors.boxes, indices, classes)
    made = {"anchors": anchors.boxes}
    for name, soft in (("hard", False), ("soft", True)):
        made[f"{name}_with_info"] = _batch_detection(*arguments, given["scales"], given["sizes"], soft_nms=soft)
        made[f"{name}_without_info"] = _batch_detection(*arguments, None, None, soft_nms=soft)
    np.savez(target, **made)


if __name__ == "__main__":
    main(*sys.argv[1:])
