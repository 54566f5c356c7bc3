"""The table of all models on the page "Choosing a model" says what the package's own tables say."""

from pathlib import Path

from effdet.models.published import PUBLISHED
from effdet.weights.published_files import PUBLISHED as FILES
from site_pages import model_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "choosing_a_model.md"


def rows_of_the_page():
    table = PAGE.read_text(encoding="utf-8").split(model_table.HEAD)[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_table_has_every_published_file_and_every_architecture():
    rows = rows_of_the_page()
    names = {word.strip("`") for row in rows for word in row[0].split(", ")}
    assert {file.name for file in FILES} <= names
    same = {name for name in PUBLISHED if any(PUBLISHED[name] == PUBLISHED[file.variant] for file in FILES)}
    assert set(PUBLISHED) - same <= names
    assert {(file.name, f"{file.ap:g}") for file in FILES} <= {
        (row[0].split(", ")[0].strip("`"), row[4]) for row in rows
    }


def test_parameters_and_multiply_adds_are_those_that_the_paper_gives_for_d0():
    """3.9M parameters and 2.5B FLOPs, Table 2 of the paper."""
    row = next(row for row in rows_of_the_page() if row[0] == "`tf_efficientdet_d0`, `d0`")
    assert row[1:4] == ["512", "3.9", "2.49"]


def test_rows_are_computed_as_they_stand_on_the_page(monkeypatch):
    names = ("tf_efficientdet_lite0", "google/coco640/efficientdet-d2-640")
    monkeypatch.setattr(model_table, "_models", lambda: [(file.variant, file) for file in FILES if file.name in names])
    page = PAGE.read_text(encoding="utf-8").splitlines()
    assert len(model_table.rows()) == 2
    assert all(row in page for row in model_table.rows())
