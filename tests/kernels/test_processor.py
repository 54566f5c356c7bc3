"""Which processors have instructions for bf16, by what their system says of them."""

import subprocess
import sys

import pytest

from effdet.kernels import processor
from effdet.kernels.processor import has_bf16

# as Linux prints them, shortened: EPYC of Zen 4, Sapphire Rapids, Cascade Lake, Graviton 3, Graviton 2
ZEN = "model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f avx512_bf16 sha_ni\nbugs\t\t: spectre_v1\n"
SAPPHIRE = "model name\t: Intel(R) Xeon(R)\nflags\t\t: fpu avx512f amx_bf16 amx_tile amx_int8\n"
CASCADE = "model name\t: Intel(R) Xeon(R) bf16\nflags\t\t: fpu avx512f avx512_vnni\nvmx flags\t: ept\n"
GRAVITON_3 = "processor\t: 0\nFeatures\t: fp asimd sve svei8mm svebf16 i8mm bf16 dgh rng\nCPU part\t: 0xd40\n"
GRAVITON_2 = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(ZEN, True), (SAPPHIRE, True), (CASCADE, False), (GRAVITON_3, True), (GRAVITON_2, False), ("", False)],
)
def test_linux_lists_the_instructions(text, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    processor.CPUINFO.write_text(2 * text)  # a part for each core
    assert has_bf16() is expected


@pytest.mark.parametrize("system", ["win32", "freebsd14"])
def test_where_no_system_says_so_there_are_none(system, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    assert has_bf16() is False


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a shell script")
@pytest.mark.parametrize(
    ("answer", "expected"),
    [("echo 1", True), ("echo 0", False), ("echo unknown >&2; exit 1", False), (None, False)],
)
def test_macos_is_asked_by_sysctl(answer, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("PATH", str(tmp_path))
    if answer is not None:
        program = tmp_path / "sysctl"
        program.write_text(f'#!/bin/sh\n[ "$*" = "-n hw.optional.arm.FEAT_BF16" ] || exit 2\n{answer}\n')
        program.chmod(0o755)
    assert has_bf16() is expected


def test_a_processor_is_known_without_pytorch():
    code = "import sys; from effdet.kernels.processor import has_bf16; print(has_bf16(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(has_bf16()), "False"]
