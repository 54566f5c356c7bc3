import subprocess
import sys

import pytest

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
