"""Formulas between two lines ``$$``, drawn once when the site is built.

GitHub draws the same text itself. The site has curves in the colour of the text, so a reader needs no script.
"""

from __future__ import annotations

import html
import re

_DISPLAY = re.compile(r"^\$\$\n(.+?)\n\$\$$", flags=re.MULTILINE | re.DOTALL)
_SIZE = 17.0  # pixels of the letter size


def drawn(markdown: str) -> str:
    """Return the text of a page with every formula as an SVG picture."""
    return _DISPLAY.sub(lambda formula: _figure(formula[1].split("\n")), markdown)


def _figure(lines: list[str]) -> str:
    return '<div class="formula">' + "".join(_svg(line.removesuffix(r"\\").strip()) for line in lines) + "</div>"


def _svg(formula: str) -> str:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    path = TextPath((0, 0), f"${formula}$", size=_SIZE, prop=FontProperties(math_fontfamily="cm"))
    box = path.get_extents().padded(2)
    size = f'width="{box.width:.0f}" height="{box.height:.0f}"'
    view = f'viewBox="{box.x0:.1f} {-box.y1:.1f} {box.width:.1f} {box.height:.1f}"'
    label = html.escape(formula, quote=True)
    return f'<svg role="img" aria-label="{label}" {size} {view}><path fill="currentColor" d="{_curves(path)}"/></svg>'


def _curves(path: object) -> str:
    letters = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}  # the codes of matplotlib's Path
    pieces = []
    for points, code in path.iter_segments():  # type: ignore[attr-defined]
        numbers = [f"{-value if index % 2 else value:.2f}" for index, value in enumerate(points)]
        pieces.append(letters[int(code)] + ("" if code == 79 else " ".join(numbers)))
    return "".join(pieces)
