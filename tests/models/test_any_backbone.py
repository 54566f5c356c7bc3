"""Backbones of every family of timm in a detector: one training step, and the exported file beside the network."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from effdet.detector.efficientdet import EfficientDet
from effdet.models.architecture import Architecture

SIZE = (72, 104)  # 32 divides neither
FAMILIES = {  # a small member of each
    "EfficientNet": "efficientnet_b0",
    "EfficientNet-Lite": "tf_efficientnet_lite0",
    "EfficientNetV2": "tf_efficientnetv2_b0",
    "MnasNet": "mnasnet_small",
    "MobileNetV2": "mobilenetv2_035",
    "MobileNetV3": "mobilenetv3_small_050",
    "MobileNetV4": "mobilenetv4_conv_small_050",
    "ResNet": "resnet10t",
    "Wide ResNet": "wide_resnet50_2",
    "DenseNet": "densenet121",
    "VGG": "vgg11",
    "Inception-v4": "inception_v4",
    "MixNet": "tf_mixnet_s",
    "ConvNeXt": "convnext_atto",
}
EXPORTED_EACH_TIME = ("mobilenetv3_small_050", "resnet10t", "densenet121", "convnext_atto")  # of each kind one
OTHERS = ["hrnet_w18_small", "regnetx_002", "ghostnet_050", "rexnet_100", "tresnet_m", "resnest14d", "legacy_xception"]


def detector(backbone):
    torch.manual_seed(0)
    small = {"channels": 8, "neck": "fpn", "neck_repeats": 1, "head_repeats": 1, "max_level": 6}
    return EfficientDet(Architecture(backbone=backbone, image_size=SIZE, stochastic_depth=0.0, **small), 3)


def train_a_step(model):
    """Return the losses of one step of SGD."""
    boxes = torch.tensor([[5.0, 5.0, 40.0, 40.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1])}, {"boxes": boxes[:0], "labels": torch.tensor([]).long()}]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)
    losses = model.train()([torch.rand(3, *SIZE), torch.rand(3, 50, 70)], targets)
    sum(losses.values()).backward()
    optimizer.step()
    return losses


@pytest.mark.parametrize("backbone", [*FAMILIES.values(), *OTHERS])
def test_a_step_reaches_every_parameter_that_is_trained(backbone):
    model = detector(backbone)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = train_a_step(model)
    assert all(loss.isfinite() for loss in losses.values())
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert bool(frozen) == (backbone == "hrnet_w18_small")  # it ends in maps at stride 4 too, which nothing reads
    assert any(
        not torch.equal(before[name], p)
        for name, p in model.network.backbone.named_parameters(prefix="network.backbone")
    )
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [pytest.param(name, marks=[] if name in EXPORTED_EACH_TIME else pytest.mark.sweep) for name in FAMILIES.values()],
)
def test_the_onnx_file_gives_what_the_network_gives(backbone, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra deploy is not installed")
    from effdet.deployment.export import ExportOptions, export

    model = detector(backbone)
    model.network.set_bn_momentum(1.0)
    with torch.no_grad():
        model.network.train()(torch.randn(8, 3, *SIZE))  # every BN takes the statistics of these images
    export(model.eval(), tmp_path / "model.onnx", ExportOptions())
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(1, 3, *SIZE)
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        plain, exact = model.network(images), copy.deepcopy(model.network).double()(images.double())
    for name, output in zip(("class_logits", "box_deltas"), found, strict=True):
        wanted = getattr(exact, name)
        allowed = 1e-5 + 3 * float((getattr(plain, name) - wanted).abs().max())  # a deep random network rounds a lot
        assert wanted.std() > 10 * allowed
        assert float((torch.from_numpy(output) - wanted).abs().max()) < allowed


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            "vit_tiny_patch16_224",
            r"backbone must have features at the strides 8, 16, 32, but 'vit_.*' has them at 16;",
        ),
        (
            "swin_tiny_patch4_window7_224",
            r"must give features as \(B, C, H, W\), but 'swin.*' gives them channels last",
        ),
        (
            "efficientformer_l1",
            r"must take images of any size, but 'efficientformer_l1' takes none of 256 × 320: ",
        ),
        ("inception_v3", r"gives 29 × 37, 14 × 18, 6 × 8, as it does not pad its edges; choose another model of timm"),
        ("no_such_net", "backbone must be the name of a model of timm, got 'no_such_net'"),
    ],
)
def test_a_backbone_without_the_features_is_refused_in_one_sentence(backbone, message):
    with pytest.raises(ValueError, match=message) as caught:
        detector(backbone)
    assert "\n" not in str(caught.value)


def test_features_that_are_no_maps_are_refused():
    from effdet.models.feature_sizes import measure

    class Tokens(nn.Module):
        feature_info = SimpleNamespace(channels=lambda: [4], reduction=lambda: [32])

        def forward(self, images):
            return [images.flatten(2)]

    with pytest.raises(
        ValueError, match=r"must give features as \(B, C, H, W\), but 'tokens' gives \[\(2, 3, 81920\)\]"
    ):
        measure("tokens", Tokens())
