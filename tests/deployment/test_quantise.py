"""Int8 in a process of its own: a pytest worker that has run NNCF has died when it later started another process."""

import importlib.util

import pytest

from tests.deployment.own_process import check_in_own_process

MISSING = [name for name in ("nncf", "openvino", "onnxscript") if importlib.util.find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"could not import {', '.join(MISSING)}")
def test_int8_checks_pass():
    check_in_own_process("int8_checks.py")
