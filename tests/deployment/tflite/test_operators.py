"""Each operator computes in LiteRT what it computes in ONNX Runtime."""

import numpy as np
import pytest

from effdet.deployment.tflite.convert import Converter, Value
from effdet.deployment.tflite.graph import Graph, pack, unpack
from effdet.deployment.tflite.operators import OPERATORS, as_tensor
from effdet.deployment.tflite.runtime import Session

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

RNG = np.random.default_rng(0)


def convert(nodes, constants, shape):
    """Return an ONNX graph of nodes from "x" to "y" and the TFLite graph of it."""
    tensors = [onnx.numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [x], [y], tensors), opset_imports=[onnx.helper.make_opsetid("", 18)]
    )
    model.ir_version = 9
    converter = Converter(model.graph)
    images = converter.graph.tensor("images", [shape[0], *shape[2:], shape[1]])
    converter.run(Value(images, channels_last=True), OPERATORS)
    converter.graph.set_signature({"images": images}, {"y": as_tensor(converter, "y")})
    return model, converter.graph


def kinds(graph):
    return [graph.kind(operator) for operator in graph.subgraph.operators]


def check(nodes, constants, shape=(1, 4, 7, 10), scale=3.0):
    model, graph = convert(nodes, constants, shape)
    x = (scale * RNG.standard_normal(shape)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    (found,) = Session(pack(graph.model), num_threads=1).run(np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    return kinds(graph)


def node(kind, inputs="x", **attributes):
    return onnx.helper.make_node(kind, inputs.split(" "), ["y"], name="node", **attributes)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32) / 3


@pytest.mark.parametrize("size", [(7, 10), (8, 9), (6, 6)], ids=str)
@pytest.mark.parametrize(
    ("kernel", "strides", "pads", "dilations"),
    [
        (1, 1, (0, 0, 0, 0), 1),
        (3, 1, (1, 1, 1, 1), 1),
        (3, 2, (1, 1, 1, 1), 1),  # PyTorch's padding, which TFLite's SAME is not for even sides
        (3, 2, (0, 0, 1, 1), 1),  # TensorFlow's for even sides
        (5, 2, (1, 2, 2, 2), 1),
        (3, 1, (2, 2, 2, 2), 2),
        (2, 2, (0, 0, 0, 0), 1),
    ],
)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions(size, kernel, strides, pads, dilations, groups):
    constants = {"w": weights(8, 4 // groups, kernel, kernel), "b": weights(8)}
    attributes = {"strides": [strides] * 2, "pads": pads, "dilations": [dilations] * 2, "group": groups}
    check([node("Conv", "x w b", **attributes)], constants, (1, 4, *size))


def test_a_convolution_may_have_no_bias():
    check([node("Conv", "x w")], {"w": weights(3, 4, 1, 1)})


@pytest.mark.parametrize("size", [(7, 10), (8, 9), (6, 6), (3, 4)], ids=str)
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 0, 1, 1), (0, 0, 0, 0)], ids=str)
def test_max_pools(size, pads):
    check([node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=pads)], {}, (1, 4, *size))


def test_a_max_pool_of_negative_numbers_sees_no_padding():
    nodes = [onnx.helper.make_node("Neg", ["a"], ["b"]), onnx.helper.make_node("Abs", ["x"], ["a"])][::-1]
    pool = onnx.helper.make_node("MaxPool", ["b"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    assert "MIRROR_PAD" in check([*nodes, pool], {}, (1, 4, 6, 8))


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    ],
)
def test_average_pools(attributes):
    check([node("AveragePool", **attributes)], {}, (1, 4, 7, 10))


@pytest.mark.parametrize(
    ("size", "target"), [((3, 5), (5, 10)), ((2, 2), (3, 3)), ((4, 3), (7, 5)), ((5, 5), (10, 10))], ids=str
)
def test_nearest_resizing_takes_the_cell_that_pytorch_takes(size, target):
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    resize = onnx.helper.make_node("Resize", ["x", "", "", "s"], ["y"], **attributes)
    assert "RESIZE_NEAREST_NEIGHBOR" in check([resize], {"s": np.array([1, 4, *target])}, (1, 4, *size))


@pytest.mark.parametrize("rule", ["half_pixel", "pytorch_half_pixel", "align_corners"])
@pytest.mark.parametrize("target", [(14, 20), (4, 5), (9, 11)], ids=str)
def test_bilinear_resizing(rule, target):
    resize = onnx.helper.make_node(
        "Resize", ["x", "", "", "s"], ["y"], mode="linear", coordinate_transformation_mode=rule
    )
    check([resize], {"s": np.array([1, 4, *target])})


def test_another_resizing_is_refused():
    resize = onnx.helper.make_node("Resize", ["x", "", "", "s"], ["y"], name="up", mode="cubic")
    with pytest.raises(
        ValueError, match=r"Resize \('up'\) must be nearest by rounding down, or bilinear, .* got cubic"
    ):
        check([resize], {"s": np.array([1, 4, 9, 9])})


@pytest.mark.parametrize(
    "kind",
    [
        "Abs",
        "Elu",
        "HardSwish",
        "Mish",
        "Neg",
        "Relu",
        "Sigmoid",
        "Softplus",
        "Tanh",
        "GlobalAveragePool",
        "GlobalMaxPool",
    ],
)
def test_functions(kind):
    check([node(kind)], {}, scale=20.0)


def test_functions_with_numbers():
    check([node("LeakyRelu", alpha=0.2)], {})
    check([node("HardSigmoid", alpha=1 / 6, beta=0.5)], {})
    for low, high in ((0, 6), (-1, 1), (-2, 0.5)):
        check([node("Clip", "x low high")], {"low": np.float32(low), "high": np.float32(high)})


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 1, 1), (10,), (4, 7, 10)], ids=str)
def test_constants_are_broadcast_as_in_onnx(kind, shape):
    check([node(kind, "x c")], {"c": 1 + np.abs(weights(*shape))})
    check([node(kind, "x c")], {"c": 1 + np.abs(weights(*shape))}, (1, 1, 1, 10))


def test_squeeze_and_excitation():
    nodes = [
        onnx.helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        onnx.helper.make_node("Conv", ["m", "w"], ["c"]),
        onnx.helper.make_node("Sigmoid", ["c"], ["s"]),
        onnx.helper.make_node("Mul", ["x", "s"], ["y"]),
    ]
    assert "TRANSPOSE" not in check(nodes, {"axes": np.array([2, 3]), "w": weights(4, 4, 1, 1)})[:-1]


def test_splitting_and_joining_channels():
    nodes = [
        onnx.helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1),
        onnx.helper.make_node("Slice", ["x", "start", "end", "axes", "step"], ["c"]),
        onnx.helper.make_node("Concat", ["b", "a", "c"], ["y"], axis=1),
    ]
    constants = {"sizes": [1, 3], "start": [1], "end": [9], "axes": [1], "step": [2]}
    check(nodes, {name: np.array(values) for name, values in constants.items()})


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (0, 3, 2, 1), (0, 1, 3, 2)], ids=str)
def test_transposing_and_reshaping(order):
    nodes = [
        onnx.helper.make_node("Transpose", ["x"], ["t"], perm=order),
        onnx.helper.make_node("Reshape", ["t", "shape"], ["y"]),
    ]
    found = check(nodes, {"shape": np.array([0, -1, 4])})
    assert ("TRANSPOSE" in found) == (order != (0, 2, 3, 1))


def test_shapes_of_one_axis_more_or_less():
    check([node("Flatten", axis=2)], {})
    check([node("Unsqueeze", "x axes")], {"axes": np.array([0])}, (1, 4, 3, 3))
    check([node("Squeeze", "x axes")], {"axes": np.array([0])})


def test_a_batch_norm_without_a_convolution_before_it():
    constants = {name: np.abs(weights(4)) + 0.1 for name in ("scale", "shift", "mean", "var")}
    check([node("BatchNormalization", "x scale shift mean var", epsilon=1e-3)], constants)


def test_padding_with_zeros():
    check([node("Pad", "x pads")], {"pads": np.array([0, 0, 1, 2, 0, 0, 3, 0])})
    with pytest.raises(ValueError, match=r"Pad \('node'\) must pad with zeros"):
        check([node("Pad", "x pads", mode="edge")], {"pads": np.array([0, 0, 1, 2, 0, 0, 3, 0])})


def test_an_activation_becomes_part_of_the_convolution_only_where_nothing_else_reads_it():
    conv = onnx.helper.make_node("Conv", ["x", "w"], ["c"])
    relu = onnx.helper.make_node("Relu", ["c"], ["r"])
    constants = {"w": weights(4, 4, 1, 1)}
    alone = check([conv, onnx.helper.make_node("Relu", ["c"], ["y"])], constants)
    assert "RELU" not in alone
    both = check([conv, relu, onnx.helper.make_node("Add", ["c", "r"], ["y"])], constants)
    assert "RELU" in both


def test_an_unknown_operator_is_named():
    with pytest.raises(ValueError, match=r"made of known operators, got the ONNX operator Erf \('node'\); export"):
        check([node("Erf")], {})


def test_a_computed_weight_is_refused():
    nodes = [onnx.helper.make_node("Abs", ["x"], ["w"]), onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="conv")]
    with pytest.raises(ValueError, match=r"input 1 of Conv \('conv'\) must be constant in a \.tflite file"):
        check(nodes, {}, (1, 4, 1, 1))


def test_every_buffer_of_a_file_is_aligned_and_read_back():
    graph = Graph()
    images = graph.tensor("images", (1, 3))
    odd = graph.constant(np.arange(5, dtype=np.int8))
    values = graph.constant(weights(1, 3))
    total = graph.tensor("sum", (1, 3))
    graph.operator("ADD", [images, values], [total], graph.options("Add"))
    graph.set_signature({"images": images}, {"sum": total})
    data = pack(graph.model)
    for tensor in (odd, values):
        stored = bytes(graph.model.buffers[graph.subgraph.tensors[tensor.index].buffer].data)
        assert data.index(stored) % 16 == 0
    again = pack(unpack(data))
    (found,) = Session(again, num_threads=1).run(np.ones((1, 3), np.float32))
    np.testing.assert_allclose(found, 1 + graph.model.buffers[2].data.view(np.float32)[None], rtol=1e-6)
