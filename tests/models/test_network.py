import copy

import pytest
import torch
from torch import nn

from effdet.models.architecture import Architecture
from effdet.models.network import Network
from effdet.ops.anchors import level_sizes, make_anchors


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network(Architecture.named("lite0"), 3, stochastic_depth=0.0)


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (75, 113), (33, 64), (1, 1)])
def test_any_input_size_gives_one_prediction_per_anchor(network, size):
    with torch.no_grad():
        predictions = network.eval()(torch.randn(1, 3, *size))
    anchors = make_anchors(size, level_sizes(size))
    assert predictions.class_logits.shape == (1, len(anchors), 3)
    assert predictions.box_deltas.shape == (1, len(anchors), 4)


def test_a_batch_gives_what_its_images_give_alone(network):
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        both = network.eval()(images).class_logits
        alone = torch.cat([network(image[None]).class_logits for image in images])
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)


def test_stride_two_convolutions_pad_as_tensorflow_does(network):
    # SAME puts the odd pixel of padding at the bottom right, so with even sides the stem's first window starts at
    # pixel (0, 0): pixel (0, 0) is seen by output (0, 0) alone, pixel (1, 1) too, and pixel (2, 2) by both.
    x = torch.zeros(1, 3, 8, 8)
    with torch.no_grad():
        base = network.backbone.conv_stem(x)
        for place, seen in [((0, 0), [(0, 0)]), ((1, 1), [(0, 0)]), ((2, 2), [(0, 0), (0, 1), (1, 0), (1, 1)])]:
            y = x.clone()
            y[0, :, place[0], place[1]] = 1.0
            touched = (network.backbone.conv_stem(y) != base).any(1)[0].nonzero().tolist()
            assert [tuple(cell) for cell in touched] == seen


def test_every_batch_norm_has_the_published_constants(network):
    constants = {(m.eps, m.momentum) for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    assert constants == {(1e-3, 0.01)}


# One of each kind of inside: blocks, flat children with and without a pooled stem, features from inside a block.
@pytest.mark.parametrize(
    "name", ["lite0", "resdet50", "cspdarkdet53m", "cspresdext50pan", "mobiledetv3_large", "efficientdet_w0"]
)
def test_gradient_checkpointing_changes_neither_gradients_nor_bn_statistics(name):
    torch.manual_seed(0)
    network = Network(Architecture.named(name), 3, stochastic_depth=0.0).train()
    images = torch.randn(2, 3, 64, 64)
    results = []
    for enable in (False, True):
        copied = copy.deepcopy(network)
        copied.set_gradient_checkpointing(enable)
        predictions = copied(images)
        (predictions.class_logits.square().mean() + predictions.box_deltas.square().mean()).backward()
        statistics = [m.running_mean for m in copied.modules() if isinstance(m, nn.BatchNorm2d)]
        results.append(([p.grad for p in copied.parameters()], statistics))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)
