"""Exported files give what the model gives that they came from."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import effdet
from effdet import EfficientDet
from effdet.deployment import export as export_module
from effdet.deployment.compare import TOLERANCES, compare, raw_difference
from effdet.deployment.description import KEY
from effdet.deployment.detector import DeployedDetector
from effdet.deployment.export import ExportOptions, as_exported, describe, export
from effdet.deployment.load import load
from effdet.deployment.onnx_graph import trace_onnx
from effdet.detector.batches import make_batch
from effdet.images.preprocessing import Preprocessing
from effdet.images.reading import read_image
from effdet.install import hint
from effdet.ops.settings import PostprocessSettings

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

SIZE = (96, 128)


@pytest.fixture(scope="module")
def model(demo_root) -> EfficientDet:
    """A small input, real statistics in every BN, and scores that spread: weights that behave as trained ones."""
    torch.manual_seed(0)
    model = EfficientDet(
        "d0",
        2,
        image_size=SIZE,
        class_names=["Zelle „rot“ <&>", 'quote"'],
        category_ids=[3, 17],
        settings=PostprocessSettings(max_detections=30),
        preprocessing=Preprocessing(fill=(1, 2, 3), zero_padding=False),
    )
    norms = [module for module in model.network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    drawn = [(file.name, read_image(file)) for file in sorted((demo_root / "images").glob("*.jpg"))]
    images = model.network_input(make_batch(drawn, model.letterbox))
    with torch.no_grad():
        model.network.train()(images)
        predictions = model.network.eval()(images)
        model.network.class_head.predict.pointwise.weight.mul_(1.5 / predictions.class_logits.std())
        model.network.box_head.predict.pointwise.weight.mul_(0.2 / predictions.box_deltas.std())
    return model.eval()


@pytest.fixture(scope="module")
def photos(demo_root) -> list[tuple[str, np.ndarray]]:
    return [(file.name, read_image(file)) for file in sorted((demo_root / "images").glob("val_*.jpg"))[:3]]


@pytest.fixture(scope="module", autouse=True)
def traced_once(model):
    """Tracing takes seconds: do it once for each kind of graph."""
    graphs = {}

    def trace(_, image_size, *, batch=1, dynamic_size=False):
        key = (image_size, batch, dynamic_size)
        if key not in graphs:
            graphs[key] = trace_onnx(model, image_size, batch=batch, dynamic_size=dynamic_size)
        graph = type(graphs[key])()
        graph.CopyFrom(graphs[key])
        return graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "trace_onnx", trace)
        yield


def check_equal(model, description, detector, photos):
    tolerance = TOLERANCES[description.precision]
    comparison = compare(as_exported(model, description), detector, photos, min_score=tolerance.min_score)
    assert comparison.detections >= 10 * len(photos)
    comparison.check(tolerance, "the export")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(),
        ExportOptions(precision="fp16"),
        ExportOptions(postprocess=True),
        ExportOptions(batch=None, dynamic_size=True),
    ],
    ids=["plain", "fp16", "postprocess", "dynamic"],
)
def test_an_onnx_file_detects_what_the_model_detects(model, photos, tmp_path, options, runtime):
    description = export(model, tmp_path / "model.onnx", options)
    detector = load(tmp_path / "model.onnx", runtime=runtime, num_threads=1)
    check_equal(model, description, detector, photos)
    assert detector.runtime.name == runtime


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [ExportOptions(format="openvino"), ExportOptions(format="openvino", postprocess=True)],
    ids=["plain", "postprocess"],
)
def test_an_openvino_file_detects_what_the_model_detects(model, photos, tmp_path, options):
    description = export(model, tmp_path / "model.xml", options)
    check_equal(model, description, load(tmp_path / "model.xml", num_threads=1), photos)


@pytest.mark.slow
def test_a_torch_export_file_detects_what_the_model_detects(model, photos, tmp_path):
    description = export(model, tmp_path / "model.pt2", ExportOptions(format="torch-export"))
    check_equal(model, description, load(tmp_path / "model.pt2"), photos)


@pytest.mark.slow
def test_a_fixed_batch_is_filled_up_and_a_larger_one_is_split(model, photos, tmp_path):
    export(model, tmp_path / "two.onnx", ExportOptions(batch=2))
    detector = load(tmp_path / "two.onnx", num_threads=1)
    batch = make_batch(photos, detector.letterbox)  # three images, in runs of two
    for found, expected in zip(detector.detect(batch), model.detect(batch), strict=True):
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
        assert torch.equal(found.labels, expected.labels)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 128), (65, 200), (128, 31)])
def test_a_dynamic_file_takes_any_size(model, photos, tmp_path, size):
    export(model, tmp_path / "any.onnx", ExportOptions(batch=None, dynamic_size=True))
    twin = as_exported(model, replace(load(tmp_path / "any.onnx").description, image_size=size))
    for runtime in ("onnxruntime", "openvino"):
        detector = load(tmp_path / "any.onnx", runtime=runtime, num_threads=1)
        detector.image_size = size
        compare(twin, detector, photos[:1]).check(TOLERANCES["fp32"], runtime)


@pytest.mark.slow
@pytest.mark.parametrize(("format", "file"), [("onnx", "m.onnx"), ("openvino", "m.xml"), ("torch-export", "m.pt2")])
def test_a_file_holds_everything_needed_to_use_it(model, tmp_path, format, file):
    written = export(model, tmp_path / file, ExportOptions(format=format))
    detector = effdet.load(tmp_path / file)
    assert detector.description == written
    for name in (
        "name",
        "num_classes",
        "class_names",
        "category_ids",
        "image_size",
        "settings",
        "preprocessing",
        "training_tiles",
        "fill",
    ):
        assert getattr(detector, name) == getattr(model, name), name
    assert detector.letterbox == model.letterbox
    assert torch.equal(detector.anchors(SIZE), model.anchors(SIZE, "cpu"))


@pytest.mark.slow
def test_other_tools_can_read_the_description(model, tmp_path):
    import onnxruntime

    export(model, tmp_path / "m.onnx", ExportOptions())
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    values = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    assert values["class_names"] == list(model.class_names)
    assert values["category_ids"] == [3, 17]
    assert values["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert session.get_inputs()[0].shape == [1, 3, *SIZE]
    assert [output.name for output in session.get_outputs()] == ["class_logits", "box_deltas"]


@pytest.mark.slow
def test_a_file_says_what_it_cannot_do(model, tmp_path):
    export(model, tmp_path / "m.onnx", ExportOptions(postprocess=True))
    detector = load(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"image_size of this file must be \(96, 128\), got \(64, 64\)"):
        detector.image_size = (64, 64)
    with pytest.raises(ValueError, match="nms, max_candidates cannot be changed"):
        detector.settings = PostprocessSettings()
    for changes, message in (
        ({"max_detections": 31}, "max_detections must be 30 or less, got 31, as the file itself"),
        ({"score_threshold": 0.0001}, "score_threshold must be 0.001 or more, got 0.0001"),
        ({"sigma": 0.1, "clip": "before"}, "sigma, clip cannot be changed"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.settings = replace(detector.settings, **changes)
    detector.settings = replace(detector.settings, max_detections=1, score_threshold=0.2)
    with pytest.raises(ValueError, match="is run by onnxruntime or openvino, got runtime 'torch'; export it"):
        load(tmp_path / "m.onnx", runtime="torch")
    with pytest.raises(ValueError, match="runtime must be one of"):
        load(tmp_path / "m.onnx", runtime="tensorrt")


@pytest.mark.slow
def test_candidates_inside_a_file_are_few_enough_for_tensorrt(model, tmp_path):
    import onnx

    export(model, tmp_path / "m.onnx", ExportOptions(postprocess=True))
    graph = onnx.load(tmp_path / "m.onnx").graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert [int(constants[node.input[1]][0]) for node in graph.node if node.op_type == "TopK"] == [3840, 30]


@pytest.mark.slow
def test_every_batch_norm_is_folded_no_bias_is_shared_and_nothing_names_this_machine(model, tmp_path):
    import onnx

    export(model, tmp_path / "m.onnx", ExportOptions())
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert not [node for node in graph.node if node.op_type in ("BatchNormalization", "Pad", "Identity")]
    biases = [node.input[2] for node in graph.node if node.op_type == "Conv" and len(node.input) > 2]
    assert len(set(biases)) == len(biases) > 50
    assert b"site-packages" not in (tmp_path / "m.onnx").read_bytes()
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)


def test_the_worst_box_is_named(model, photos):
    class Lower:
        letterbox = model.letterbox

        def detect(self, batch):
            return [replace(found, scores=found.scores * 0.9) for found in model.detect(batch)]

    comparison = compare(model, Lower(), photos)
    with pytest.raises(ValueError, match=r"must agree .* worst is .* at \(.*\) in val_.*jpg: score 0\.\d+ in Py"):
        comparison.check(TOLERANCES["fp32"], "m.onnx")
    best = max(float(model.detect(make_batch([photo], model.letterbox))[0].scores[0]) for photo in photos)
    assert comparison.max_score_difference == pytest.approx(best * 0.1, rel=1e-4)


def test_a_missing_box_counts_as_a_score_of_zero(model, photos):
    class Blind:
        letterbox = model.letterbox

        def detect(self, batch):
            return [found.above(2.0) for found in model.detect(batch)]

    comparison = compare(model, Blind(), photos)
    assert comparison.min_iou == 0
    assert comparison.worst.other_score == 0


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_file_that_is_none_is_refused(tmp_path, suffix):
    file = tmp_path / f"bad{suffix}"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load(file)
    file.write_bytes(b"not a model")
    file.with_suffix(".bin").touch()
    with pytest.raises(ValueError, match=rf"bad\{suffix} is not a readable \{suffix} file"):
        load(file)


@pytest.mark.slow
@pytest.mark.parametrize(("format", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml"), ("torch-export", ".pt2")])
def test_a_file_that_is_cut_off_is_refused_in_one_sentence(model, tmp_path, format, suffix):
    file = tmp_path / f"m{suffix}"
    export(model, file, ExportOptions(format=format))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"m\{suffix} is not a readable \{suffix} file: [^\n]*$"):
        load(file)


@pytest.mark.slow
def test_an_openvino_file_needs_all_of_its_weights(model, tmp_path):
    export(model, tmp_path / "m.xml", ExportOptions(format="openvino"))
    weights = tmp_path / "m.bin"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"m\.xml is not a readable \.xml file"):
        load(tmp_path / "m.xml")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"m\.xml must have its weights beside it in m\.bin"):
        load(tmp_path / "m.xml")


def test_an_onnx_file_of_others_is_refused(tmp_path):
    from onnx import TensorProto, helper, save

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", values[:1], values[1:])
    save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "o.onnx")
    with pytest.raises(ValueError, match="holds no description of this package"):
        load(tmp_path / "o.onnx")


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    import sys

    (tmp_path / "m.onnx").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=re.escape(f"this needs onnxruntime; install it with: {hint('deploy')}")):
        load(tmp_path / "m.onnx", runtime="onnxruntime")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "caffe"}, "format must be one of onnx, openvino, torch-export, tflite, .*, got 'caffe'"),
        ({"precision": "bf16"}, "precision of onnx must be one of fp32, fp16, got 'bf16'"),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"format": "torch-export", "postprocess": True}, "post-processing cannot be part of torch-export files"),
        ({"dynamic_size": True, "postprocess": True}, "must have a fixed size"),
        ({"format": "torch-export", "dynamic_size": True}, "the size of torch-export files must be fixed"),
        ({"max_candidates": 5}, "max_candidates goes with postprocess"),
    ],
)
def test_options_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ExportOptions(**values)


def test_the_difference_of_raw_outputs_is_in_standard_deviations(model, photos):
    class Shifted:
        def run(self, images):
            with torch.no_grad():
                found = model.network(torch.from_numpy(images))
            logits, deltas = found.class_logits, found.box_deltas
            return [(logits + 0.5 * logits.std()).numpy(), (deltas - 0.25 * deltas.std()).numpy()]

    detector = DeployedDetector(describe(model, ExportOptions()), Shifted())
    assert raw_difference(model, detector, photos[:2]) == pytest.approx(0.5, rel=1e-3)
