"""What the processor of this machine can compute; no other library is needed to know it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_FLAGS = {"flags", "Features"}  # the lines of /proc/cpuinfo that list instructions: on x86, and on ARM
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # AVX-512 and AMX of x86, and ARM's
_BF16_OF_MACOS = "hw.optional.arm.FEAT_BF16"  # of sysctl


def has_bf16() -> bool:
    """Return whether the processor has instructions that multiply in bf16, as Linux or macOS says; elsewhere False."""
    if sys.platform == "darwin":
        return _sysctl(_BF16_OF_MACOS) == "1"
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    listed = (names.split() for key, _, names in (line.partition(":") for line in lines) if key.strip() in _FLAGS)
    return not _BF16.isdisjoint(next(listed, []))


def _sysctl(name: str) -> str:
    """Return a value of macOS's sysctl; "" if there is none, as on its processors of Intel."""
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
