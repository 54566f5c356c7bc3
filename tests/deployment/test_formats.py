"""The table of formats says what is so."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import effdet
from effdet import EfficientDet
from effdet.deployment.export import ExportOptions, export
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
    with pytest.raises(
        ValueError, match=r"must end in one of \.onnx, \.xml, \.pt2, \.tflite, \.pte, \.mlpackage, got m\.ncnn"
    ):
        format_of("m.ncnn")


def test_the_table_is_read_without_torch():
    code = "import sys, effdet.deployment.formats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("suffix", "module"), [(".pte", "executorch.runtime"), (".tflite", "ai_edge_litert.interpreter")]
)
def test_a_missing_runtime_is_named_with_how_to_install_it(tmp_path, monkeypatch, suffix, module):
    (tmp_path / f"model{suffix}").write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"this needs {module}; install it with: pip install"):
        effdet.load(tmp_path / f"model{suffix}")


def test_a_core_ml_file_says_where_it_runs(tmp_path):
    (tmp_path / "model.mlpackage").mkdir()
    with pytest.raises(ValueError, match=r"model\.mlpackage runs on macOS and iOS only; load the weights"):
        effdet.load(tmp_path / "model.mlpackage")


@pytest.mark.parametrize("name", ["executorch", "coreml"])
def test_a_file_for_one_image_takes_no_other_batch(name):
    for batch in (2, None):
        with pytest.raises(ValueError, match=f"batch of {name} files must be 1, got {batch}"):
            ExportOptions(format=name, batch=batch)


def test_a_file_stays_whole_when_the_next_export_fails(tmp_path, monkeypatch):
    def fail(model, file, description, quantisation):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    model = EfficientDet("lite0", 2, image_size=(64, 64)).eval()
    (tmp_path / "model.onnx").write_bytes(b"the one before")
    monkeypatch.setattr("effdet.deployment.export.write_onnx", fail)
    with pytest.raises(KeyboardInterrupt):
        export(model, tmp_path / "model.onnx", ExportOptions())
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.onnx", b"the one before")]
