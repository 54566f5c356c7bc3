"""``.tflite`` files: they detect what PyTorch detects, and say what MediaPipe wants to know."""

import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

import effdet
from effdet import Architecture, EfficientDet
from effdet.deployment.compare import compare
from effdet.deployment.export import ExportOptions, as_exported, export
from effdet.deployment.quantise import AccuracyControl, Quantisation
from effdet.deployment.tflite import write
from effdet.deployment.tflite.graph import Graph, unpack
from effdet.deployment.tflite.metadata_reader import read_metadata
from effdet.deployment.tflite.nms import find_operator, options_of
from effdet.detector.batches import make_batch
from effdet.images.reading import read_image
from effdet.ops.settings import PostprocessSettings

pytest.importorskip("onnxscript")
pytest.importorskip("ai_edge_litert")

SIZE = (96, 160)  # odd levels in both directions: 12, 6, 3, 2, 1 and 20, 10, 5, 3, 2 cells
NAMES = ["赤血球", "a\nb", "c"]
LITE = replace(Architecture.named("lite0"), channels=24, neck_repeats=1, head_repeats=1)
SMALL = replace(Architecture.named("d0"), channels=24, neck_repeats=1, head_repeats=1)


@pytest.fixture(scope="module")
def photos(demo_root):
    return [(file.name, read_image(file)) for file in sorted((demo_root / "images").glob("*.jpg"))[:4]]


@pytest.fixture(scope="module")
def model(photos, like_trained):
    torch.manual_seed(0)
    settings = PostprocessSettings(max_detections=30)
    return like_trained(EfficientDet(LITE, 3, image_size=SIZE, class_names=NAMES, settings=settings), photos)


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Tracing takes seconds: do it once for each network."""
    graphs = {}
    trace = write.trace_onnx

    def traced(model, image_size, *, deltas_as_yxhw):
        key = (id(model.network), image_size, deltas_as_yxhw)
        if key not in graphs:
            graphs[key] = model, trace(model, image_size, deltas_as_yxhw=deltas_as_yxhw)
        return graphs[key][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "trace_onnx", traced)
        yield


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("tflite") / "model.tflite"
    export(model, file, ExportOptions(format="tflite"))
    return file


def graph_of(file):
    return Graph(unpack(file.read_bytes()))


def images_for_calibration(model, photos):
    inputs = [model.network_input(make_batch([photo], model.letterbox)).contiguous().numpy() for photo in photos]
    return [image + shift for image in inputs for shift in (-0.1, 0.0, 0.1)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_file_detects_what_the_model_detects(model, file, photos, threads):
    detector = effdet.load(file, num_threads=threads)
    comparison = compare(as_exported(model, detector.description), detector, photos, min_score=0.02)
    assert comparison.detections >= 100
    assert comparison.max_score_difference < 1e-4
    assert comparison.min_iou > 0.999
    assert detector.class_names == tuple(NAMES)


def test_several_threads_may_call_a_detector(file, photos):
    detector = effdet.load(file, num_threads=1)
    images = [image for _, image in photos] * 4
    expected = [detector.predict(image, score_threshold=0.1)[0] for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: detector.predict(image, score_threshold=0.1)[0], images))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.boxes, other.boxes)
        torch.testing.assert_close(one.scores, other.scores)


@pytest.mark.parametrize("architecture", [LITE, pytest.param(SMALL, marks=pytest.mark.slow)], ids=["lite0", "d0"])
def test_raw_outputs_are_those_of_the_network(model, photos, like_trained, tmp_path, architecture):
    if architecture is SMALL:
        torch.manual_seed(0)
        model = like_trained(EfficientDet(SMALL, 1, image_size=SIZE), photos)
    export(model, tmp_path / "m.tflite", ExportOptions(format="tflite", postprocess=False))
    detector = effdet.load(tmp_path / "m.tflite")
    batch = make_batch(photos[:1], model.letterbox)
    with torch.no_grad():
        expected = model.network(model.network_input(batch))
    outputs = detector.runtime.run(np.ascontiguousarray(detector.network_input(batch)))
    for ours, theirs in zip(outputs, (expected.class_logits.numpy(), expected.box_deltas.numpy()), strict=True):
        assert np.abs(ours - theirs).max() < 1e-3 * theirs.std()
    graph = graph_of(tmp_path / "m.tflite")
    kinds = Counter(graph.kind(operator) for operator in graph.subgraph.operators)
    assert kinds["RESIZE_NEAREST_NEIGHBOR"] == 4
    assert not {"TRANSPOSE", "CUSTOM", "GATHER", "GATHER_ND"} & set(kinds)
    for operator in graph.subgraph.operators:
        assert not getattr(operator.builtinOptions, "halfPixelCenters", False)


def test_a_file_says_what_other_programs_ask(file):
    with zipfile.ZipFile(file) as archive:
        assert archive.read("labels.txt").decode() == "赤血球\na b\nc\n"
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    graph = graph_of(file)
    (entry,) = graph.model.metadata
    assert entry.name == b"TFLITE_METADATA"
    found = read_metadata(bytes(graph.model.buffers[entry.buffer].data))
    assert (found.mean, found.std, found.label_file) == ((127.0,), (128.0,), "labels.txt")
    options = options_of(find_operator(graph.model))
    assert (options["num_classes"], options["max_detections"], options["use_regular_nms"]) == (3, 30, True)
    assert options["nms_score_threshold"] == pytest.approx(0.02)
    names = [graph.subgraph.tensors[index].name for index in graph.subgraph.outputs]
    assert names == ["location", "category", "score", "number of detections"]


def test_fp16_halves_the_file(model, file, photos, tmp_path):
    export(model, tmp_path / "h.tflite", ExportOptions(format="tflite", precision="fp16"))
    assert (tmp_path / "h.tflite").stat().st_size < 0.6 * file.stat().st_size
    detector = effdet.load(tmp_path / "h.tflite")
    batch = make_batch(photos[:1], model.letterbox)  # a random network loses single detections in half precision
    (best,), (found,) = as_exported(model, detector.description).detect(batch), detector.detect(batch)
    assert abs(float(best.scores[:10].mean() - found.scores[:10].mean())) < 0.05


@pytest.fixture(scope="module")
def int8_file(model, photos, tmp_path_factory):
    pytest.importorskip("ai_edge_quantizer")
    file = tmp_path_factory.mktemp("int8") / "model.tflite"
    quantisation = Quantisation(inputs=images_for_calibration(model, photos))
    export(model, file, ExportOptions(format="tflite", precision="int8"), quantisation=quantisation)
    return file


def test_int8_takes_bytes(model, file, int8_file, photos):
    assert int8_file.stat().st_size < 0.4 * file.stat().st_size
    detector = effdet.load(int8_file)
    assert detector.runtime.takes_uint8
    batch = make_batch(photos[:1], model.letterbox)
    assert detector.network_input(batch).dtype == np.uint8
    (best,) = as_exported(model, detector.description).detect(batch)
    (found,) = detector.detect(batch)
    assert abs(float(best.scores[:10].mean() - found.scores[:10].mean())) < 0.2
    graph = graph_of(int8_file)
    computed = {graph.kind(operator) for operator in graph.subgraph.operators}
    assert {"QUANTIZE", "DEQUANTIZE", "CUSTOM"} <= computed
    scales = graph.subgraph.tensors[graph.subgraph.inputs[0]].quantization
    assert scales.scale.tolist() == [1 / 128]
    assert list(scales.zeroPoint) == [127]


@pytest.mark.sweep
def test_int8_that_may_lose_nothing_is_float_again(model, photos, tmp_path):
    pytest.importorskip("ai_edge_quantizer")
    asked = []

    def score(runtime, indices):
        kinds = [runtime.outputs[0]["dtype"], len(list(indices))]
        asked.append(kinds)
        return 0.5 if len(asked) == 1 else 0.5 - 0.1 / len(asked) if len(asked) < 4 else 0.5

    control = AccuracyControl(score=score, num_images=5, max_drop=0.0)
    quantisation = Quantisation(inputs=images_for_calibration(model, photos)[:3], control=control)
    options = ExportOptions(format="tflite", precision="int8")
    export(model, tmp_path / "m.tflite", options, quantisation=quantisation)
    graph = graph_of(tmp_path / "m.tflite")
    in_float = [
        operator
        for operator in graph.subgraph.operators
        if graph.kind(operator) == "CONV_2D"
        and graph.subgraph.tensors[operator.inputs[1]].type == graph.schema.TensorType.FLOAT32
    ]
    assert len(asked) == 4  # float, int8, one layer back, two layers back
    assert len(in_float) >= 10 + 1  # the last convolutions of both heads at five levels, and what came back
    assert effdet.load(tmp_path / "m.tflite").predict(photos[0][1], score_threshold=0.1)


def test_options_that_a_file_cannot_have_are_refused():
    with pytest.raises(ValueError, match=r"batch of tflite files must be 1, got None; leave it out"):
        ExportOptions(format="tflite", batch=None)
    with pytest.raises(ValueError, match=r"the size of tflite files must be fixed"):
        ExportOptions(format="tflite", dynamic_size=True)
    with pytest.raises(ValueError, match=r"precision of tflite must be one of fp32, fp16, int8, got 'bf16'"):
        ExportOptions(format="tflite", precision="bf16")
    with pytest.raises(ValueError, match=r"max_candidates goes with postprocess, in the formats onnx and openvino"):
        ExportOptions(format="tflite", max_candidates=5)
    with pytest.raises(ValueError, match="score_threshold goes with post-processing inside the file"):
        ExportOptions(format="tflite", postprocess=False, score_threshold=0.1)
