"""Resize images and suppress boxes with TensorFlow's kernels: python make_tensorflow.py IN.npz OUT.npz.

IN: either ``image_size`` (2,), mean and std (3,) in 0…255, and images image_n (h, w, 3) uint8; or boxes (C, 4) yxyx,
scores (C,), labels (C,), sigma (), score_threshold () and max_detections (). OUT: for each image_n the SHA-256
of its (H, W, 3) float32 pixels, and scale_n, network per original pixel; or ``indices`` and ``scores`` of the boxes
that remain, best first.
"""

import sys
from hashlib import sha256

import numpy as np
import tensorflow as tf


def letterbox(image, image_size, mean, std):
    normalised = (tf.cast(image, tf.float32) - mean) / std
    height, width = (tf.cast(side, tf.float32) for side in image.shape[:2])
    scale = tf.minimum(tf.cast(image_size[0], tf.float32) / height, tf.cast(image_size[1], tf.float32) / width)
    content = [tf.cast(height * scale, tf.int32), tf.cast(width * scale, tf.int32)]
    resized = tf.image.resize(normalised, content, method="bilinear")
    return tf.image.pad_to_bounding_box(resized, 0, 0, *image_size).numpy(), scale.numpy()


def suppress(boxes, scores, labels, sigma, score_threshold, max_detections):
    """Soft NMS class by class, each up to ``max_detections``, then the best of them all."""
    indices, kept = [], []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen, decayed = tf.image.non_max_suppression_with_scores(
            boxes[members],
            scores[members],
            int(max_detections),
            iou_threshold=0.5,
            score_threshold=float(score_threshold),
            soft_nms_sigma=float(sigma) / 2,  # the kernel decays by exp(−IoU² / 2σ)
        )
        indices.append(members[chosen.numpy()])
        kept.append(decayed.numpy())
    indices, kept = np.concatenate(indices), np.concatenate(kept)
    order = np.argsort(-kept, kind="stable")[: int(max_detections)]
    return indices[order], kept[order]


def main(source, target):
    given = dict(np.load(source))
    made = {}
    if "boxes" in given:
        made["indices"], made["scores"] = suppress(**given)
    for name, image in given.items():
        if name.startswith("image_") and name != "image_size":
            size = given["image_size"].tolist()
            pixels, made[name.replace("image", "scale")] = letterbox(image, size, given["mean"], given["std"])
            made[name] = np.frombuffer(sha256(pixels.tobytes()).digest(), np.uint8)
    np.savez(target, **made)


if __name__ == "__main__":
    main(*sys.argv[1:])
