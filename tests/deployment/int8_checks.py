"""Int8: what computes in it, how far results move, what accuracy control gives back; run by test_quantise.py."""

import numpy as np
import pytest
import torch

import effdet.deployment.quantise as quantise_module
from effdet import EfficientDet, load
from effdet.commands import main
from effdet.data.formats import find_dataset
from effdet.deployment.quantise import AccuracyControl, Quantisation, output_convolutions, quantise
from effdet.deployment.runtimes import OpenVino

pytest.importorskip("nncf")
openvino = pytest.importorskip("openvino")
ops = pytest.importorskip("openvino.opset13")


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, 3, 16, 16), dtype=np.float32) for _ in range(8)]


def build_graph():
    """Two convolutions with x · sigmoid(x) between them; the second makes an output as a head does."""
    rng = np.random.default_rng(1)
    images = ops.parameter([1, 3, 16, 16], name="images")

    def convolve(x, outputs, channels, name):
        kernel = ops.constant(rng.standard_normal((outputs, channels, 3, 3), dtype=np.float32) / 5)
        same = ([1, 1], [1, 1], [1, 1], [1, 1])
        bias = ops.constant(rng.standard_normal((1, outputs, 1, 1), dtype=np.float32))
        return ops.add(ops.convolution(x, kernel, *same, name=name), bias)

    hidden = convolve(images, 8, 3, "hidden")
    swish = ops.multiply(hidden, ops.sigmoid(hidden))
    output = ops.transpose(convolve(swish, 6, 8, "output"), [0, 2, 3, 1])
    return openvino.Model([output], [images], "tiny")


def count(graph, kind):
    return sum(node.get_type_name() == kind for node in graph.get_ops())


def run(graph, images):
    return OpenVino(graph, num_threads=1).run(images)[0].copy()


@pytest.fixture
def expected(inputs):
    return [run(build_graph(), images) for images in inputs]


def test_the_convolution_of_an_output_is_found():
    assert output_convolutions(build_graph()) == ["output"]


@pytest.mark.parametrize(("float_outputs", "correct_biases"), [(True, True), (False, True), (True, False)])
def test_int8_stays_near_float(inputs, expected, float_outputs, correct_biases):
    settings = Quantisation(inputs=inputs, float_outputs=float_outputs, correct_biases=correct_biases)
    graph = quantise(build_graph(), settings)
    assert count(graph, "Swish") == 1  # one operation, which a convolution absorbs
    quantised = [
        node.get_friendly_name()
        for node in graph.get_ops()
        if node.get_type_name() == "Convolution" and node.input_value(0).get_node().get_type_name() == "FakeQuantize"
    ]
    assert sorted(quantised) == (["hidden"] if float_outputs else ["hidden", "output"])
    for images, wanted in zip(inputs, expected, strict=True):
        error = np.abs(run(graph, images) - wanted).max()
        assert 1e-5 < error < 0.05 * np.abs(wanted).max()  # 256 steps over the range, and not float


@pytest.mark.parametrize(("max_drop", "is_float"), [(1.0, False), (0.0, True)])
def test_layers_go_back_to_float_until_no_more_is_lost_than_may_be(inputs, expected, max_drop, is_float):
    asked = []

    def score(runtime, indices):
        asked.append(indices)
        errors = [np.abs(runtime.run(inputs[i])[0] - expected[i]).max() / np.abs(expected[i]).max() for i in indices]
        return 1.0 - round(float(np.mean(errors)), 6)

    control = AccuracyControl(score=score, num_images=len(inputs), max_drop=max_drop)
    graph = quantise(build_graph(), Quantisation(inputs=inputs, float_outputs=False, control=control))
    assert asked.count(list(range(len(inputs)))) >= 2  # float and int8, on every image
    assert (count(graph, "FakeQuantize") == 0) is is_float
    error = np.abs(run(graph, inputs[0]) - expected[0]).max()
    assert (error < 1e-5) == is_float


def test_int8_is_exported_under_accuracy_control(demo_root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quantise_module, "MIN_IMAGES", 16)
    torch.manual_seed(0)
    weights, file = tmp_path / "demo.safetensors", tmp_path / "demo-int8.xml"
    dataset = find_dataset(demo_root, "val")
    names = {"class_names": dataset.class_names, "category_ids": dataset.category_ids}
    EfficientDet("lite0", dataset.num_classes, image_size=(64, 64), **names).save_pretrained(weights)
    options = ["--format", "openvino", "--precision", "int8", "--calibration", str(demo_root), "--max-drop", "1"]
    anything = ["--tolerance", "1", "0"]  # random weights score everything alike
    assert main(["export", "--weights", str(weights), *options, *anything]) == 0
    out, err = capsys.readouterr()
    assert f"{file}: openvino int8" in out
    assert err.count(f"on {len(dataset)} images") == 2  # the AP of float and of int8
    assert load(file).description.precision == "int8"
