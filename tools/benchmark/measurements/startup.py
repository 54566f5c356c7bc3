"""Measure new processes: imports, --help, and the first prediction of an exported file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmark.race import Entry, Row, race
from benchmark.results import make_result, race_options, threads_of
from effdet.deployment.runtimes import is_installed

COMMAND_LINE = "import sys; from effdet.commands import main; sys.exit(main())"  # the code of the script ``effdet``
FIRST_PREDICTION = "import sys, effdet; effdet.load(sys.argv[1], runtime=sys.argv[3]).predict(sys.argv[2])"


def startup(args: argparse.Namespace, folder: Path, facts: dict[str, Any] | None) -> dict[str, Any]:
    """Time of imports, of --help, and of the first prediction of an exported file, each in a new process.

    Args:
        args: The options.
        folder: Folder of ``model.onnx``; used only if ``facts`` is not None.
        facts: The facts of ``Prepare``; None if nothing could be exported.
    """
    commands = {
        "import torch": ["-c", "import torch"],
        "ours: import effdet": ["-c", "import effdet"],
        "ours: from effdet import EfficientDet": ["-c", "from effdet import EfficientDet"],
        "ours: effdet --help": ["-c", COMMAND_LINE, "--help"],
        "ours: effdet train --help": ["-c", COMMAND_LINE, "train", "--help"],
    }
    if facts is not None:
        file, photo = str(folder / "model.onnx"), facts["photos"][0]
        name = f"of {facts['variant']}.onnx on a photo"
        commands |= {
            **{
                f"ours: first prediction {name}, {title}": ["-c", FIRST_PREDICTION, file, photo, runtime]
                for runtime, title in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO"))
                if is_installed(runtime)
            },
            f"ours: effdet predict {name}": [
                *("-c", COMMAND_LINE, "predict", "--weights", file, photo, "--out", str(folder / "found")),
            ],
        }
    entries = [
        Entry(
            name=name,
            module="commands",
            task="command",
            settings={"argv": [sys.executable, *argv], "isolated": False},
            environment=threads_of(args),
        )
        for name, argv in commands.items()
    ]
    if args.peer_python is not None:
        argv = [args.peer_python, "-I", "-W", "ignore", "-c", "import effdet"]
        settings = {"argv": argv, "isolated": True}
        entries.append(Entry(name="effdet: import effdet", module="commands", task="command", settings=settings))
    rows: list[Row] = race(entries, **race_options(args))
    for row in rows:
        row.peak_mb = 0.0  # only known for the process that started the commands
    return make_result(args, "a fresh process, from its start to its end", rows, images_per_step=1)
