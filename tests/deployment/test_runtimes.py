import subprocess
import sys

import numpy as np
import pytest

from effdet.deployment.runtimes import OpenVino, outputs_for

TWO_DETECTORS = """
import os, signal
import openvino, openvino.opset13 as ops
from effdet.deployment.runtimes import OpenVino

def tiny():
    images = ops.parameter([1, 3, 8, 8])
    return openvino.Model([ops.relu(images)], [images], "tiny")

first, second = OpenVino(tiny()), OpenVino(tiny())
del first, second
signal.signal(signal.SIGINT, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
print("alive")
"""


def test_signals_are_handled_after_two_networks_in_openvino_are_gone():
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", TWO_DETECTORS], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["handled", "alive"]), done.stderr


def test_openvino_lends_its_outputs_until_the_block_ends():
    openvino = pytest.importorskip("openvino")
    ops = openvino.opset13
    images = ops.parameter([1, 3, 8, 8])
    runtime = OpenVino(openvino.Model([ops.relu(images)], [images], "tiny"))
    one, two, three = (np.full((1, 3, 8, 8), level, np.float32) for level in (1, 2, 3))
    with outputs_for(runtime, one) as (first,), outputs_for(runtime, two) as (second,):
        assert np.array_equal(first, one)
        assert np.array_equal(second, two)
    copied = runtime.run(one)[0]
    with pytest.raises(KeyError), outputs_for(runtime, two):
        raise KeyError  # its buffers are used again all the same
    with outputs_for(runtime, three) as (last,):
        assert np.shares_memory(last, first) or np.shares_memory(last, second)
    assert np.array_equal(copied, one)
