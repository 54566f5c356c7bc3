"""The table of formats says what is so."""

import pkgutil
import subprocess
import sys

import pytest

from effdet.deployment.formats import FORMATS, RUNTIMES, format_of, is_exported


def test_every_writer_and_opener_is_there():
    for format in FORMATS.values():
        assert callable(pkgutil.resolve_name(format.writer))
        assert set(format.runtimes) <= set(RUNTIMES)
    for runtime in RUNTIMES.values():
        assert callable(pkgutil.resolve_name(runtime.opener))


def test_every_suffix_belongs_to_one_format():
    suffixes = [format.suffix for format in FORMATS.values()]
    assert len(set(suffixes)) == len(suffixes)
    for format in FORMATS.values():
        assert format_of(f"folder.v2/model{format.suffix.upper()}") is format


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("m.onnx", True),
        ("m.XML", True),
        ("m.pt2", True),
        ("m.tflite", True),
        ("m.safetensors", False),
        ("m.pt", False),
        ("d0", False),
    ],
)
def test_exports_are_told_from_weights_by_their_suffix(file, expected):
    assert is_exported(file) is expected


def test_another_suffix_is_refused():
    with pytest.raises(ValueError, match=r"must end in one of \.onnx, \.xml, \.pt2, \.tflite, got m\.ncnn"):
        format_of("m.ncnn")


def test_the_table_is_read_without_torch():
    code = "import sys, effdet.deployment.formats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
