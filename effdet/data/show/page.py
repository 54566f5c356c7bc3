"""One HTML page of a data set, with all pictures inside of it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet.data.dataset import Dataset
from effdet.data.doctor.class_checks import class_counts
from effdet.data.show.contact_sheet import COLUMNS, Row

_STYLE = """
body { font-family: sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: 0.25em 0.8em; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd }
td.number { text-align: right }
img { max-width: 100%; height: auto }
figure { margin: 0 0 1.5em 0 }
figcaption { font-size: 0.9em; color: #555 }
"""


def make_page(title: str, datasets: Mapping[str, Dataset], rows: Sequence[Row], plots: bytes, about: str) -> str:
    """Return the page: a table of the splits, the plots, a table of the classes, and the contact sheet.

    Args:
        title: Such as the name of the folder.
        datasets: The splits by name.
        rows: Of the contact sheet.
        plots: A PNG file.
        about: One sentence on what the images were augmented for.
    """
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _splits(datasets),
        f'<figure><img alt="plots of the boxes" src="{_data_url(plots, "png")}"></figure>',
        "<h2>Classes</h2>",
        _classes(datasets),
        "<h2>Images as annotated, and as the network is shown them</h2>",
        f"<p>{html.escape(about)}</p>",
        _contact_sheet(rows),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _splits(datasets: Mapping[str, Dataset]) -> str:
    rows = [
        (
            split,
            str(dataset.annotation_file),
            len(dataset),
            int((np.diff(dataset.offsets) == 0).sum()),
            len(dataset.labels),
        )
        for split, dataset in datasets.items()
    ]
    return _table(("part", "annotations", "images", "of them without boxes", "boxes"), rows)


def _classes(datasets: Mapping[str, Dataset]) -> str:
    counts = {split: class_counts(dataset) for split, dataset in datasets.items()}
    names = dict.fromkeys(name for numbers in counts.values() for name in numbers)
    return _table(("class", *datasets), [(name, *(counts[split].get(name, 0) for split in datasets)) for name in names])


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    lines = [f"<tr>{cells}</tr>"]
    for row in rows:
        cells = "".join(
            f'<td class="number">{value:,}</td>' if isinstance(value, int) else f"<td>{html.escape(str(value))}</td>"
            for value in row
        )
        lines.append(f"<tr>{cells}</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _contact_sheet(rows: Sequence[Row]) -> str:
    lines = ["<tr>" + "".join(f"<th>{html.escape(column)}</th>" for column in COLUMNS) + "</tr>"]
    for row in rows:
        cells = [
            f'<td><img alt="{html.escape(row.name)}, {column}" src="{_data_url(_as_jpeg(picture), "jpeg")}"></td>'
            for picture, column in zip(row.pictures, COLUMNS, strict=True)
        ]
        lines += [
            "<tr>" + "".join(cells) + "</tr>",
            f"<tr><td colspan={len(COLUMNS)}>{html.escape(row.name)}</td></tr>",
        ]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _as_jpeg(picture: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=88)
    return file.getvalue()


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
