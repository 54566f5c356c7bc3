"""Kernels of the training step on a CPU, compiled on the machine that runs them.

``training.cpp`` and its headers are compiled once by the system's C++ compiler, for its own processor, and kept in the
user's cache. Without a compiler, or with one that does not know OpenMP, there are no kernels and PyTorch does the work.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from effdet.cache import cache_folder
from effdet.kernels.signatures import SIGNATURES, checked

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("training.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-Wno-psabi")


class Kernels:
    """The compiled functions; each is called by its name in ``training.cpp`` with tensors, numbers and None.

    A call is checked against ``SIGNATURES``: tensors are dense and on the CPU, maps channels last. What the maps
    hold and PyTorch's number of threads are passed last to the functions that take them.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions = {name: getattr(library, name) for name in SIGNATURES}
        for name, function in self._functions.items():
            function.argtypes = [argument.c_type for argument in SIGNATURES[name]]
            function.restype = None

    def __call__(self, name: str, *arguments: Tensor | float | None) -> None:
        """Call a function.

        Raises:
            TypeError, ValueError: If an argument is not what the function takes; see ``checked``.
        """
        passed = checked(name, arguments)
        function = self._functions[name]
        if len(passed) < len(function.argtypes):
            passed.append(torch.get_num_threads())
        function(*passed)


@functools.lru_cache(maxsize=1)
def load_kernels() -> Kernels | None:
    """Return the kernels, compiled if they are not yet; None, with a line in the log, where that cannot be done."""
    try:
        return Kernels(ctypes.CDLL(str(_build())))
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("training uses PyTorch's own kernels: %s", error)
        return None


def _build() -> Path:
    """Return the compiled library; its name tells source, compiler and processor."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise FileNotFoundError("no C++ compiler (c++, g++ or clang++) on the PATH")
    flags = [*FLAGS, *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else [])]
    sources = [path.read_bytes() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    macros = _run([compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull])  # names compiler and processor
    key = hashlib.sha256(b"\0".join([*sources, macros, " ".join(flags).encode()])).hexdigest()[:16]
    library = cache_folder() / f"training-{key}.so"
    if not library.exists():
        logger.info("compiling the kernels of the training step, once on this machine")
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            _run([compiler, *flags, str(SOURCE), "-o", str(made)])
            made.replace(library)  # at once, so that no other process loads half a file
    return library


def _run(command: list[str]) -> bytes:
    finished = subprocess.run(command, capture_output=True, check=False, timeout=300)
    if finished.returncode:
        last = finished.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise OSError(f"{command[0]} failed: {' '.join(last)}")
    return finished.stdout
