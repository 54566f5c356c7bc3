"""What runs on a GPU only, beside the same without it."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from effdet import EfficientDet
from effdet.detector import cuda_graphs
from effdet.detector.cuda_graphs import CudaGraphs
from effdet.ops import batched_postprocess
from effdet.ops.batched_postprocess import postprocess_batch
from effdet.ops.settings import PRESETS, PostprocessSettings
from effdet.structures import Predictions
from effdet.training import focal

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

IMAGES = [np.random.default_rng(seed).integers(0, 256, (60 + seed, 90, 3), dtype=np.uint8) for seed in range(6)]


def make_model():
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return EfficientDet("lite0", num_classes=3, image_size=(96, 128)).cuda().eval()


def recorded(graphs):
    return [graph for graph in graphs._graphs.values() if graph is not None]


@torch.inference_mode()
def test_a_graph_gives_what_the_network_gives_also_for_new_weights():
    network = make_model().network
    graphs, images = CudaGraphs(network), torch.randn(5, 2, 3, 96, 128, device="cuda")
    for index, batch in enumerate(images):
        got, expected = graphs(batch), network(batch)
        torch.testing.assert_close(got.class_logits, expected.class_logits)
        torch.testing.assert_close(got.box_deltas, expected.box_deltas)
        assert len(recorded(graphs)) == (index > 0)
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(1.01)


@torch.inference_mode()
def test_weights_that_moved_are_recorded_anew_and_other_shapes_apart():
    network = make_model().network
    graphs, images = CudaGraphs(network), torch.randn(2, 3, 96, 128, device="cuda")
    graphs(images), graphs(images)
    (before,) = recorded(graphs)
    for parameter in network.parameters():
        parameter.data = parameter.data.clone() * 1.01
    torch.testing.assert_close(graphs(images).class_logits, network(images).class_logits)
    (after,) = recorded(graphs)
    assert after is not before
    for side in (64, 96, 128, 160, 192):
        graphs(images[:, :, :64, :64].repeat(1, 1, side // 64 + 1, 1)), graphs(images)
    assert len(graphs._graphs) <= cuda_graphs.MOST_GRAPHS


@torch.inference_mode()
def test_autocast_has_a_graph_of_its_own_that_sees_new_weights():
    network = make_model().network
    graphs, images = CudaGraphs(network), torch.randn(2, 3, 96, 128, device="cuda")
    graphs(images), graphs(images)
    for _ in range(3):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            got = graphs(images).class_logits
            expected = network(images).class_logits
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected)
        with torch.no_grad():
            network.class_head.predict.pointwise.weight.mul_(1.5)
    assert len(recorded(graphs)) == 2


@torch.inference_mode()
def test_a_network_that_cannot_be_recorded_is_computed_all_the_same():
    network = make_model().network
    network.box_head.register_forward_hook(lambda module, _, output: output * output.sum().sign().item())
    graphs, images = CudaGraphs(network), torch.randn(2, 3, 96, 128, device="cuda")
    for _ in range(3):
        torch.testing.assert_close(graphs(images).box_deltas, network(images).box_deltas)
    assert not recorded(graphs)


def test_hooks_are_called_at_every_prediction():
    model, seen = make_model(), []
    model.network.box_head.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(4):
        model.predict(IMAGES[0])
    assert len(seen) == 4


def test_threads_and_new_devices_get_the_right_boxes():
    model = make_model()
    expected = [model.predict(image, score_threshold=0.0)[0].boxes for image in IMAGES]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: model.predict(image, score_threshold=0.0)[0].boxes, IMAGES * 4))
    for one, other in zip(found, expected * 4, strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-3)
    model.cpu().cuda().half()
    first = [model.predict(image, score_threshold=0.0)[0].scores for image in IMAGES[:1] * 3]
    assert torch.equal(first[1], first[2])
    copy.deepcopy(model).predict(IMAGES[0])


@pytest.mark.parametrize("settings", [*PRESETS.values(), PostprocessSettings(class_agnostic=True, nms="hard")])
def test_the_kernel_of_nms_finds_what_the_operators_find(monkeypatch, settings):
    settings = replace(settings, max_candidates=min(settings.max_candidates, 5000))
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(3, 3000, 4, generator=generator) * 2 - 2).cuda()
    deltas = (torch.randn(3, 3000, 4, generator=generator) * 0.4).cuda()
    centre = torch.rand(3000, 2, generator=generator) * 100
    anchors = torch.cat([centre - 12, centre + 12], dim=1).cuda()
    results = []
    for most in (batched_postprocess.MOST_CANDIDATES, 0):
        monkeypatch.setattr(batched_postprocess, "MOST_CANDIDATES", most)
        found = postprocess_batch(
            Predictions(logits, deltas),
            anchors,
            scales=torch.tensor([1.0, 0.5, 1.6]),
            original_sizes=torch.tensor([[96, 120], [192, 256], [60, 70]]),
            settings=settings,
            image_size=(96, 128),
        )
        results.append(found)
    for (boxes, labels, scores), (other_boxes, other_labels, other_scores) in zip(*results, strict=True):
        assert len(boxes) > 0
        torch.testing.assert_close(boxes, other_boxes)
        assert torch.equal(labels, other_labels)
        torch.testing.assert_close(scores, other_scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_kernel_of_the_focal_loss_computes_what_the_operators_compute(dtype, crowds, smoothing):
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randn(5000, 7, generator=generator) * 6 - 3).cuda().to(dtype)
    rows[0, :4] = torch.tensor([-80.0, 80.0, 0.0, -4.6], device="cuda")
    ignored = (torch.rand(5000, generator=generator) < 0.3).cuda() if crowds else None
    kind = focal._Focal(alpha=0.25, gamma=1.5, smoothing=smoothing, fused=True)
    weight = torch.tensor(0.37, device="cuda")
    total, gradient = focal._background_by_kernel(rows, ignored, kind, weight)
    expected, expected_gradient = focal._background_by_operators(rows.double(), ignored, kind, weight.double())
    assert abs(total.item() / expected.item() - 1) < 1e-6
    assert gradient.dtype == dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=max(2 * step, 2e-5), atol=1e-7)


def test_boxes_and_labels_may_lie_on_the_gpu_or_not():
    model = make_model().train()
    images = [torch.rand(3, 60, 90, generator=torch.Generator().manual_seed(0)).cuda()] * 2
    boxes, labels = torch.tensor([[10.0, 10.0, 60.0, 50.0]]), torch.tensor([1])
    there, here = (
        copy.deepcopy(model)(images, [{"boxes": boxes.to(device), "labels": labels.to(device)}] * 2)
        for device in ("cuda", "cpu")
    )
    for name, loss in there.items():
        torch.testing.assert_close(loss, here[name])
        assert loss > 0
