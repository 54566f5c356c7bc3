"""The presets of post-processing against the projects they are named after."""

from dataclasses import replace

import numpy as np
import torch

from effdet.ops.anchors import level_sizes, make_anchors
from effdet.ops.array_postprocess import _candidates
from effdet.ops.postprocess import postprocess
from effdet.ops.settings import PostprocessSettings
from effdet.structures import Predictions

K = 20
EFFDET_SHAPES = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # width and height of its anchors over their base


def peaked_predictions(num_anchors: int, *, seed: int) -> Predictions:
    """Two images whose scores look like a trained model's: nearly all tiny, a few sure, all of them different."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, num_anchors, K, generator=generator) - 6
    sure = torch.rand(2, num_anchors, K, generator=generator) < 2e-3
    logits += sure * 5 * torch.rand(logits.shape, generator=generator)
    return Predictions(logits, torch.randn(2, num_anchors, 4, generator=generator) * 0.4)


def test_the_effdet_preset_gives_the_detections_of_effdet(run_peer):
    for image_size in ((256, 256), (256, 384)):
        compare_detections(run_peer, image_size)


def compare_detections(run_peer, image_size):
    anchors = make_anchors(image_size, level_sizes(image_size, 3, 7), scale=4.0, aspect_ratios=EFFDET_SHAPES)
    predictions = peaked_predictions(len(anchors), seed=image_size[1])
    height, width = image_size
    originals = torch.tensor([[height * 5 // 2, width * 5 // 2], [height // 3, width // 2]])
    scales = torch.tensor([0.4, 2.0])
    theirs = run_peer(
        "make_detections.py",
        {
            "logits": predictions.class_logits,
            "deltas": predictions.box_deltas[..., [1, 0, 3, 2]],
            "image_size": image_size,
            "scales": 1 / scales,
            "sizes": originals.flip(1).float(),
        },
    )
    their_anchors = torch.from_numpy(theirs["anchors"])[:, [1, 0, 3, 2]]
    torch.testing.assert_close(anchors, their_anchors, rtol=0, atol=1e-4)

    hard = PostprocessSettings.preset("effdet")
    soft = replace(hard, nms="soft", score_threshold=0.001)
    for name, settings in (("hard", hard), ("soft", soft)):
        for info, clip, factors in (
            ("with_info", "before", scales),
            ("without_info", "none", torch.ones(2)),  # it knows no size to clip to, and leaves pixels of the network
        ):
            results = postprocess(
                predictions,
                anchors,
                scales=factors,
                original_sizes=originals,
                settings=replace(settings, clip=clip),
            )
            for (boxes, labels, scores), rows in zip(results, theirs[f"{name}_{info}"], strict=True):
                expected = torch.from_numpy(rows)
                assert len(boxes) == 100
                assert labels.tolist() == (expected[:, 5] - 1).tolist()
                torch.testing.assert_close(boxes, expected[:, :4], rtol=0, atol=0.01)
                # Its soft NMS moves classes apart in float32, far enough to blur the overlaps.
                torch.testing.assert_close(scores, expected[:, 4], rtol=0, atol=1e-6 if name == "hard" else 1e-4)


def test_the_google_preset_gives_the_detections_of_tensorflow_kernels(ask_tensorflow):
    image_size = (256, 384)
    anchors = make_anchors(image_size, level_sizes(image_size, 3, 7), scale=4.0)
    predictions = peaked_predictions(len(anchors), seed=image_size[1])
    settings = PostprocessSettings.preset("google")
    originals = torch.tensor([image_size] * 2)
    results = postprocess(
        predictions, anchors, scales=torch.tensor([1.0, 0.5]), original_sizes=originals, settings=settings
    )
    for image, (boxes, labels, scores) in enumerate(results):
        arrays = (
            tensor.numpy() for tensor in (predictions.class_logits[image], predictions.box_deltas[image], anchors)
        )
        found = _candidates(*arrays, replace(settings, score_threshold=0.0))
        candidates = [torch.from_numpy(column) for column in found]
        assert len(candidates[0]) == 5000
        theirs = ask_tensorflow(
            f"detections_{image}",
            {
                "boxes": candidates[0][:, [1, 0, 3, 2]],
                "labels": candidates[1],
                "scores": candidates[2],
                "sigma": settings.sigma,
                "score_threshold": settings.score_threshold,
                "max_detections": settings.max_detections,
            },
        )
        chosen = torch.from_numpy(theirs["indices"])
        assert len(boxes) == 100
        assert labels.tolist() == candidates[1][chosen].tolist()
        torch.testing.assert_close(boxes, candidates[0][chosen] * (1, 2)[image], rtol=0, atol=1e-3)
        np.testing.assert_allclose(scores.numpy(), theirs["scores"], rtol=0, atol=1e-6)
