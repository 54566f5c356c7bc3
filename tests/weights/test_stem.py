"""A pretrained stem for images of other channels than RGB."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from effdet import Architecture, EfficientDet
from effdet.weights.stem import inflate


def test_kernels_typed_by_hand():
    kernel = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    assert inflate(kernel, 1).flatten().tolist() == [7]
    assert inflate(kernel, 2).flatten().tolist() == [3.5, 3.5]
    assert inflate(kernel, 3).flatten().tolist() == [1, 2, 4]
    assert inflate(kernel, 5).flatten().tolist() == [0.5, 1, 4, 0.5, 1]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12])
def test_a_gray_image_gives_what_its_rgb_copy_gives(channels):
    torch.manual_seed(0)
    kernel, gray = torch.randn(8, 3, 3, 3), torch.randn(2, 1, 20, 20)
    expected = F.conv2d(gray.repeat(1, 3, 1, 1), kernel, padding=1)
    torch.testing.assert_close(F.conv2d(gray.repeat(1, channels, 1, 1), inflate(kernel, channels), padding=1), expected)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_backbone_starts_from_weights_for_rgb(channels, tmp_path):
    """The whole network answers alike, with neck and heads of the RGB one."""
    from dataclasses import replace

    def build(count, **options):
        torch.manual_seed(1)
        numbers = (120.0,) * count
        architecture = replace(Architecture.named("lite0"), in_channels=count, mean=numbers, std=numbers)
        return EfficientDet(architecture, 3, image_size=(64, 64), **options).eval()

    rgb = build(3)
    save_file(rgb.network.backbone.state_dict(), tmp_path / "backbone.safetensors")
    other = build(channels, backbone_weights=str(tmp_path / "backbone.safetensors"))
    rest = {name: value for name, value in rgb.state_dict().items() if ".backbone." not in name}
    other.load_state_dict(rest, strict=False)
    gray = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        expected, got = (
            model.network(model.normalise(gray.repeat(1, count, 1, 1) * 255, torch.tensor([[64, 64]])))
            for model, count in ((rgb, 3), (other, channels))
        )
    torch.testing.assert_close(got.class_logits, expected.class_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.box_deltas, expected.box_deltas, atol=1e-4, rtol=1e-4)
    assert other.letterbox.mean == (120.0,) * channels  # not that of the weights
