import ctypes
import logging
import subprocess

import pytest

from effdet.cache import cache_folder
from effdet.kernels import library
from effdet.kernels.library import SOURCE, Kernels, load_kernels
from effdet.kernels.signatures import SIGNATURES


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    load_kernels.cache_clear()
    yield
    load_kernels.cache_clear()


def test_without_a_compiler_there_are_no_kernels_and_the_log_says_why(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    caplog.set_level(logging.INFO)
    assert load_kernels() is None
    assert "no C++ compiler" in caplog.text


def test_a_compiler_that_fails_leaves_no_kernels_and_its_last_line_in_the_log(monkeypatch, caplog, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho first >&2\necho unknown argument -fopenmp >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    caplog.set_level(logging.INFO)
    assert load_kernels() is None
    assert "unknown argument -fopenmp" in caplog.text


def test_the_library_is_compiled_once(monkeypatch, tmp_path):
    if load_kernels() is None:
        pytest.skip("this machine cannot compile the kernels")
    built = library._build()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = cache_folder() / built.name
    target.parent.mkdir()
    target.write_bytes(built.read_bytes())
    commands = []
    run = library._run
    monkeypatch.setattr(library, "_run", lambda command: commands.append(command) or run(command))
    assert library._build() == target
    assert [command for command in commands if str(SOURCE) in command] == []


def test_another_source_makes_another_library(monkeypatch, tmp_path):
    if load_kernels() is None:
        pytest.skip("this machine cannot compile the kernels")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "training.cpp"
    names = set()
    for number in (1, 2):
        source.write_text(f'extern "C" int answer() {{ return {number}; }}')
        monkeypatch.setattr(library, "SOURCE", source)
        names.add(library._build().name)
    assert len(names) == 2
    assert sorted(path.name for path in cache_folder().iterdir()) == sorted(names)


def test_the_source_has_every_function():
    source = SOURCE.read_text()
    assert all(f"void {name}(" in source for name in SIGNATURES)


def test_a_timeout_of_the_compiler_leaves_no_kernels(monkeypatch):
    def late(command):
        raise subprocess.TimeoutExpired(command, 300)

    monkeypatch.setattr(library, "_run", late)
    assert load_kernels() is None


def test_kernels_refuse_a_library_without_them():
    with pytest.raises(AttributeError):
        Kernels(ctypes.CDLL(None))
