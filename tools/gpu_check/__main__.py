"""Check this project on a GPU and measure it there.

    python tools/gpu_check --json gpu.json
    python tools/gpu_check --json gpu.json --parts speed --peer-path peer_packages
    python tools/gpu_check --device cpu --quick

Each part prints a table. With --json, finished parts are kept in the file and left out when the command runs again;
--again repeats them. Exit status 1: a check failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from gpu_check import equality, exports, machine, processes, speed, tests, training  # noqa: E402

PARTS: dict[str, Callable[[argparse.Namespace], Iterable[dict[str, Any]]]] = {
    "machine": machine.measure,
    "tests": tests.run,
    "equality": equality.check,
    "exports": exports.check,
    "training": training.check,
    "processes": processes.check,
    "speed": speed.measure,
    "demo": training.run_demo,
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(description="Check this project on a GPU and measure it there.")
    result.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    result.add_argument("--json", type=Path, metavar="FILE", help="keep results here and go on where it stopped")
    result.add_argument("--again", action="store_true", help="repeat parts that FILE has already")
    result.add_argument("--device", default="cuda", help="cuda, or cpu to try the script (default: cuda)")
    result.add_argument("--quick", action="store_true", help="small inputs and few repeats")
    result.add_argument("--peer-path", type=Path, metavar="FOLDER", help="folder that holds PyPI's effdet 0.4.1")
    return result


def main() -> int:
    """Run the parts, print their tables, and return the exit status."""
    args = parser().parse_args()
    results: dict[str, Any] = {}
    if args.json and args.json.is_file():
        results = json.loads(args.json.read_text(encoding="utf-8"))
    failed = False
    for name in args.parts:
        if name in results.get("finished", []) and not args.again:
            print(f"\n{name}: done before")
            continue
        started = time.perf_counter()
        print(f"\n{name}", flush=True)
        rows: list[dict[str, Any]] = []
        results[name] = rows
        try:
            for row in PARTS[name](args):
                rows.append(row)
                write(args.json, results)  # a part that is killed leaves what it measured
                print(f"  {time.perf_counter() - started:4.0f} s  {_text(row)}", flush=True)
        except Exception:
            traceback.print_exc()
            rows.append({"check": "the part ran to its end", "value": "no", "ok": False})
        print_table(rows)
        failed |= any(row.get("ok") is False for row in rows)
        results.setdefault("finished", []).append(name)
        write(args.json, results)
    return int(failed)


def write(file: Path | None, results: dict[str, Any]) -> None:
    """Write the results so far, if there is a file for them."""
    if file:
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows of equal or different keys, a column for each key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([_text(row.get(key)) for key in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), flush=True
        )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "ok" if value else "FAILED"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
