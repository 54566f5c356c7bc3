"""The table of all published models in ``docs/how-to/choosing_a_model.md``: ``make model-table`` writes it.

Parameters and multiply-adds are computed, names, files and AP come from the tables of the package, and milliseconds
from the table of the network alone in ``docs/measurements/performance.md``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from effdet.models.cost import network_cost
from effdet.models.published import PUBLISHED
from effdet.weights.published_files import PUBLISHED as FILES
from effdet.weights.published_files import PublishedFile

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "choosing_a_model.md"
SPEED = ROOT / "docs" / "measurements" / "performance.md"
START, END = "<!-- model table: made by `make model-table` -->\n", "<!-- end of the model table -->\n"
HEAD = "| model | input | M parameters | G multiply-adds | AP, claimed | ms | file |\n|---|---|---|---|---|---|---|\n"


def rows() -> list[str]:
    """Return a line for every published file, and for every architecture that has none, lightest first."""
    speed = _milliseconds()
    lines = [(cost, _row(name, file, cost, speed)) for name, file in _models() for cost in [_cost(name, file)]]
    return [line for _, line in sorted(lines)]


def _models() -> list[tuple[str, PublishedFile | None]]:
    published = [(file.variant, file) for file in FILES]
    with_file = {variant for variant, _ in published}
    same = {name for name, value in PUBLISHED.items() for other in with_file if value == PUBLISHED[other]}
    return [*published, *((name, None) for name in PUBLISHED if name not in with_file | same)]


def _cost(name: str, file: PublishedFile | None) -> tuple[int, int]:
    architecture = replace(
        PUBLISHED[name],  # what costs nothing is made alike
        anchor_scale=4.0,
        aspect_ratios=((1.0, 1.0), (2.0, 1.0), (1.0, 2.0)),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        stochastic_depth=0.0,
    )
    cost = network_cost(architecture, image_size=file.image_size if file else None)
    return cost.macs, cost.parameters


def _row(name: str, file: PublishedFile | None, cost: tuple[int, int], speed: dict[str, str]) -> str:
    height, width = (file.image_size if file else None) or PUBLISHED[name].image_size
    macs, parameters = cost
    cells = [
        ", ".join(f"`{word}`" for word in ((file.name, *file.aliases[:1]) if file else (name,))),
        f"{height}" if height == width else f"{height}×{width}",
        f"{parameters / 1e6:.1f}",
        f"{macs / 1e9:.2f}" if macs < 1e10 else f"{macs / 1e9:.0f}",
        f"{file.ap:g}" if file else "",
        speed.get(next((alias for alias in file.aliases if alias in speed), ""), "") if file else "",
        f"`{file.file_name}`" if file else "",
    ]
    return f"| {' | '.join(cells)} |"


def _milliseconds() -> dict[str, str]:
    """Return the median of OpenVINO of each network that was measured, by the short name of its model."""
    table = SPEED.read_text(encoding="utf-8").split("| network | input | G MACs |")[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0].lower(): row[6] for row in cells}


def write(page: Path = PAGE) -> None:
    """Put the table between its two comments on the page."""
    text = page.read_text(encoding="utf-8")
    table = START + "\n" + HEAD + "\n".join(rows()) + "\n\n" + END
    page.write_text(
        re.sub(f"{re.escape(START)}.*{re.escape(END)}", lambda _: table, text, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    write()
