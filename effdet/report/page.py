"""One HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effdet.install import hint

_FOLDER = Path(__file__).parent / "assets"


def render_report(numbers: dict[str, Any], gallery: Sequence[Any], crops: Sequence[Any]) -> str:
    """Return the page of one detector.

    Args:
        numbers: As ``report_numbers`` returns them.
        gallery: Images, as ``make_gallery`` returns them.
        crops: Groups of crops, as ``make_gallery`` returns them.

    Raises:
        ImportError: If jinja2 is not installed.
    """
    return _render("report.html", "report.js", {**numbers, "gallery": list(gallery), "crops": list(crops)})


def render_comparison(numbers: dict[str, Any]) -> str:
    """Return the page that compares detectors, from the numbers of ``comparison_numbers``.

    Raises:
        ImportError: If jinja2 is not installed.
    """
    return _render("comparison.html", "comparison.js", numbers)


def _render(template: str, script: str, data: dict[str, Any]) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(f"a report needs jinja2: {hint('report')}") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    scripts = "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("charts.js", script))
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(data=data, style=style, scripts=scripts)
