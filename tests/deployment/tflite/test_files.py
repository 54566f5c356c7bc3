"""Files of others load if they say enough; damaged and hostile ones are one clear error."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

import effdet
from effdet.deployment.tflite.graph import Graph, pack, unpack
from effdet.deployment.tflite.metadata import (
    NAME,
    InputScale,
    append_files,
    checksum,
    label_lines,
    make_metadata,
)
from effdet.deployment.tflite.nms import OUTPUTS, append_nms, find_operator
from effdet.ops.settings import PostprocessSettings

pytest.importorskip("ai_edge_litert")

SIZE = (4, 6)
SETTINGS = PostprocessSettings(nms="hard", score_threshold=0.1, iou_threshold=0.6, max_detections=7)
SCALE = InputScale(mean=127.5, std=127.5, channels=3)
ANCHORS = np.array([[0, 0, 3, 4], [1, 1, 5, 3], [2, 0, 6, 4]], np.float32)


def graph_of_others(dtype="float32", num_classes=2):
    """A detector whose logits and deltas are constants: an anchor of each class, and one that is nothing."""
    graph = Graph()
    images = graph.tensor("input", (1, *SIZE, 3), dtype)
    logits = np.full((1, 3, num_classes), -5, np.float32)
    logits[0, 0, 0], logits[0, 1, num_classes - 1] = 2, 1
    zero = graph.tensor("zero", (1, 1, 1))
    pixels = images
    if dtype == "uint8":
        pixels = graph.tensor("pixels", images.shape)
        graph.operator("CAST", [images], [pixels], graph.options("Cast", inDataType=3, outDataType=0))
    mean = graph.tensor("mean", (1, 3))
    axes = graph.constant(np.array([1, 2], np.int32))
    graph.operator("MEAN", [pixels, axes], [mean], graph.options("Reducer", keepDims=False))
    nothing = graph.constant(np.zeros((1, 3), np.float32))
    products = graph.tensor("products", (1, 3))
    graph.operator("MUL", [mean, nothing], [products], graph.options("Mul"))
    graph.operator(
        "SUM", [products, graph.constant(np.array([1], np.int32))], [zero], graph.options("Reducer", keepDims=True)
    )
    raw = {}
    for name, values in (("class_logits", logits), ("box_deltas", np.zeros((1, 3, 4), np.float32))):
        raw[name] = graph.tensor(name, values.shape)
        graph.operator("ADD", [zero, graph.constant(values)], [raw[name]], graph.options("Add"))
    graph.set_signature({"input": images}, raw)
    append_nms(graph, ANCHORS, SIZE, num_classes, SETTINGS)
    return graph


def write(file, graph, *, labels="cat\ndog\n", metadata=True):
    if metadata:
        graph.add_metadata(NAME, make_metadata("other", SCALE, OUTPUTS))
    data = pack(graph.model)
    file.write_bytes(append_files(data, {"labels.txt": labels}) if labels is not None else data)
    return file


@pytest.fixture
def file(tmp_path):
    return tmp_path / "other.tflite"


def test_a_file_of_others_detects_what_it_holds(file):
    detector = effdet.load(write(file, graph_of_others()), num_threads=2)
    (found,) = detector.predict(np.zeros((8, 12, 3), np.uint8), score_threshold=0.2)
    assert found.class_names == ("cat", "dog")
    assert found.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 1.0]).sigmoid())
    torch.testing.assert_close(found.boxes, 2 * torch.from_numpy(ANCHORS[:2]))  # the photo is twice the input
    assert (detector.name, detector.image_size) == ("unknown", SIZE)
    assert replace(detector.settings, score_threshold=0.1, iou_threshold=0.6) == replace(SETTINGS, max_detections=7)


def test_an_input_of_bytes_needs_no_mean(file):
    detector = effdet.load(write(file, graph_of_others("uint8"), metadata=False))
    assert detector.predict(np.zeros((8, 12, 3), np.uint8))[0].labels.tolist() == [0, 1]


def test_outputs_in_another_order_are_found_by_their_operator(file):
    graph = graph_of_others()
    graph.subgraph.outputs = list(graph.subgraph.outputs)[::-1]
    graph.model.signatureDefs = []
    (found,) = effdet.load(write(file, graph)).predict(np.zeros((8, 12, 3), np.uint8))
    assert found.labels.tolist() == [0, 1]


def test_a_line_for_the_background_and_lines_for_nothing(file):
    detector = effdet.load(write(file, graph_of_others(num_classes=3), labels="???\ncat\n???\ndog\n"))
    assert detector.class_names == ("cat", "class 1", "dog")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metadata": False}, "its input is float, so its TFLite metadata must have NormalizationOptions"),
        ({"labels": None}, "it must have a label file in the zip behind it"),
        ({"labels": "cat\n"}, r"its label file labels\.txt must have 2 lines, one for each class, got 1"),
    ],
)
def test_what_a_file_of_others_lacks_is_named(file, options, message):
    with pytest.raises(ValueError, match=rf"other\.tflite does not say enough to be used: {message}"):
        effdet.load(write(file, graph_of_others(), **options))


def test_a_file_without_nms_needs_a_description(file):
    graph = graph_of_others()
    graph.subgraph.operators = graph.subgraph.operators[:-1]
    graph.subgraph.outputs = [graph.subgraph.operators[-1].outputs[0]]
    graph.model.signatureDefs = []
    with pytest.raises(ValueError, match="no description of this package, and no TFLite_Detection_PostProcess"):
        effdet.load(write(file, graph))


def test_another_number_of_inputs_is_refused(file):
    graph = graph_of_others()
    graph.subgraph.inputs = [*graph.subgraph.inputs, graph.tensor("more", (1, 2)).index]
    graph.model.signatureDefs = []
    with pytest.raises(ValueError, match=r"must have one input \(1, H, W, C\) of images, got"):
        effdet.load(write(file, graph))


def damaged(data):
    """Return files that are none any more, by what happened to them."""
    return {
        "empty": (b"", "bytes 4 to 8 must be TFL3"),
        "another kind": (data[:4] + b"XXXX" + data[8:], "bytes 4 to 8 must be TFL3"),
        "cut": (data[: len(data) // 2], "is not a readable"),
        "cut early": (data[:60], "is not a readable"),
        "random": (b"\x20\0\0\0TFL3" + np.random.default_rng(0).bytes(2000), "is not a readable"),
        "an offset that leads away": (b"\xff\xff\xff\x7f" + data[4:], "is not a readable"),
    }


@pytest.mark.parametrize("kind", damaged(b""))
def test_a_damaged_file_is_one_error(file, kind):
    data, message = damaged(write(file, graph_of_others()).read_bytes())[kind]
    file.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        effdet.load(file)


def test_a_changed_byte_is_noticed_by_the_checksum(file):
    data = pack(graph_of_others().model)
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    file.write_bytes(append_files(bytes(changed), {"effdet.sha256": checksum(data), "effdet.json": "{}"}))
    with pytest.raises(ValueError, match="was changed or damaged after it was exported, as its checksum shows"):
        effdet.load(file)


def test_a_file_that_ends_the_process_is_tried_in_another(file):
    graph = graph_of_others()
    find_operator(graph.model).customOptions = None  # LiteRT reads them without a look
    with pytest.raises(ValueError, match=r"is not a readable \.tflite file: it ends the process that runs it"):
        effdet.load(write(file, graph))


def test_damaged_metadata_is_one_error(file):
    graph = graph_of_others()
    graph.add_metadata(NAME, b"\x40\0\0\0M001" + b"\xff" * 20)
    with pytest.raises(ValueError, match=r"it holds damaged tables: .*get the file again"):
        effdet.load(write(file, graph, metadata=False))


def test_damaged_labels_are_one_error(file):
    data = bytearray(write(file, graph_of_others()).read_bytes())
    data[data.rindex(b"cat\ndog") + 1] ^= 0xFF  # the zip has a checksum of each file
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"Bad CRC-32|damaged"):
        effdet.load(file)


def test_label_lines_hold_one_name_each():
    assert label_lines(["a\r\nb", "  c "]) == "a b\nc\n"


def test_files_travel_uncompressed(file):
    write(file, graph_of_others())
    with zipfile.ZipFile(file) as archive:
        assert [entry.compress_type for entry in archive.infolist()] == [zipfile.ZIP_STORED]


def test_a_model_is_read_back_as_it_was_written():
    data = pack(graph_of_others().model)
    assert pack(unpack(data)) == pack(unpack(pack(unpack(data))))
