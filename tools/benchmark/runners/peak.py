"""The machine's peak in dense convolutions, in the same runtime as the measured network."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

SHAPES = ((256, 3, 64), (128, 3, 128), (512, 1, 64), (512, 3, 32))  # channels in and out, kernel, side
REPEATS = 12


class Peak:
    """Measures convolutions of batch 1; ``facts["gflops"]`` is the fastest (multiplication and addition count as two).

    Args:
        runtime: "torch", "onnxruntime" or "openvino".
        threads: Number of threads.
    """

    def __init__(self, *, runtime: str, threads: int) -> None:
        build = {"torch": _torch, "onnxruntime": _onnxruntime, "openvino": _openvino}[runtime]
        found = []
        for channels, kernel, side in SHAPES:
            run = build(channels, kernel, side, threads)
            seconds = min(_seconds(run) for _ in range(REPEATS))
            gflops = 2 * (channels * kernel * side) ** 2 / seconds / 1e9
            found.append((gflops, f"{kernel}×{kernel}, {channels} channels, {side}×{side}"))
        self.facts = dict(zip(("gflops", "shape"), max(found), strict=True))


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _torch(channels: int, kernel: int, side: int, threads: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(threads)
    images = torch.rand(1, channels, side, side).to(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(channels, channels, kernel, padding=kernel // 2).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> Any:
        return convolution(images)

    return run


def _onnxruntime(channels: int, kernel: int, side: int, threads: int) -> Callable[[], Any]:
    from effdet.deployment.runtimes import OnnxRuntime

    runtime = OnnxRuntime(_graph(channels, kernel, side), num_threads=threads)
    images = _images(channels, side)
    return lambda: runtime.run(images)


def _openvino(channels: int, kernel: int, side: int, threads: int) -> Callable[[], Any]:
    from effdet.deployment.runtimes import OpenVino

    runtime = OpenVino(_graph(channels, kernel, side), num_threads=threads)
    images = _images(channels, side)
    return lambda: runtime.run(images)


def _images(channels: int, side: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).random((1, channels, side, side), dtype=np.float32)


def _graph(channels: int, kernel: int, side: int) -> bytes:
    """Return an ONNX file of one convolution."""
    import onnx

    shape = [1, channels, side, side]
    values = np.random.default_rng(1).standard_normal((channels, channels, kernel, kernel)).astype(np.float32)
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[kernel // 2] * 4)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    weights = [onnx.numpy_helper.from_array(values, "w")]
    graph = onnx.helper.make_graph([node], "convolution", ends[:1], ends[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


TASKS = {"peak": Peak}
