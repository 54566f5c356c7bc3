"""The Core ML program computes what the network computes, as far as that can be seen without a Mac."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet.commands import main
from effdet.deployment.coreml import convert, enlarge_by_whole_factors
from effdet.deployment.description import KEY
from effdet.deployment.executorch import quiet
from effdet.deployment.export import ExportOptions, describe

with quiet():
    coremltools = pytest.importorskip("coremltools")

spec = importlib.util.spec_from_file_location("mil", Path(__file__).with_name("mil.py"))
mil = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mil)


@pytest.mark.parametrize("name", ["lite0", "d0"])
def test_the_program_computes_what_the_network_computes(name, trained, cell_photos):
    model = trained(name)
    program = convert(model, describe(model, ExportOptions(format="coreml")))
    image = model.letterbox(cell_photos[0][1]).image
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        found = mil.run_program(program._mil_program, pixels)
        expected = model.network((pixels - model.mean.view(-1, 1, 1)) / model.std.view(-1, 1, 1))
    for output, wanted in zip(found, (expected.class_logits, expected.box_deltas), strict=True):
        assert (output - wanted).abs().max() < 2e-3 * wanted.std()
    assert [output.name for output in program.get_spec().description.output] == ["class_logits", "box_deltas"]


def test_the_package_says_what_it_is(trained, tmp_path, capsys):
    trained("few blocks").save_pretrained(tmp_path / "model.safetensors")
    file = tmp_path / "model.mlpackage"
    command = ["export", "--weights", str(tmp_path / "model.safetensors"), "--format", "coreml", "--out", str(file)]
    for _ in range(2):  # the second replaces the first
        assert main([*command, "--precision", "fp16", "--json", "-"]) == 0
    out = capsys.readouterr()
    assert "not run and not compared with PyTorch, as such a file runs on macOS and iOS only" in out.err
    last = out.out.splitlines()[-1] if out.out.count("{") == 1 else out.out[out.out.rindex("{") :]
    parameters = sum(parameter.numel() for parameter in trained("few blocks").parameters())
    assert 1.8 * parameters < json.loads(last)["bytes"] < 3.2 * parameters  # 2 bytes each, and the program
    model = coremltools.models.MLModel(str(file), skip_model_load=True)
    description = json.loads(model.user_defined_metadata[KEY])
    assert (description["class_names"], description["input"]) == (["eins", "zwei", "三"], "pixels")
    (image,) = model.get_spec().description.input
    assert (image.name, image.type.imageType.height, image.type.imageType.width) == ("image", 96, 160)


def test_an_enlargement_by_a_broken_factor_is_one_by_two_that_is_cut():
    class Enlarge(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.interpolate(x, size=(5, 8), mode="nearest")

    x = torch.arange(12.0).view(1, 1, 3, 4)
    program = torch.export.export(Enlarge(), (x,)).run_decompositions({})
    assert enlarge_by_whole_factors(program.graph_module) == 1
    (found,) = program.graph_module(x)
    assert torch.equal(found, Enlarge()(x))
    assert found[0, 0, :, 0].tolist() == [0, 0, 4, 4, 8]  # by hand: rows 0, 0, 1, 1, 2


def test_a_network_for_other_than_rgb_is_refused(tmp_path):
    from effdet import Architecture, EfficientDet

    gray = EfficientDet(
        Architecture(**{**vars(Architecture.named("lite0")), "in_channels": 1, "mean": (127.0,), "std": (128.0,)}), 2
    )
    with pytest.raises(ValueError, match="coreml files need a network with in_channels=3, got 1; take onnx"):
        convert(gray, describe(gray, ExportOptions(format="coreml")))
