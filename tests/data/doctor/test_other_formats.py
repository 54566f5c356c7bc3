"""Sets in other formats than COCO, each with many faults: all are named, and the cleaned copy has none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effdet.commands import main
from effdet.data.conversion import convert
from effdet.data.formats.finding import find_data

# Each fault: what is done to a file, and how the doctor's finding about it must begin.
Faults = list[tuple[Callable[[str], str], str]]


def replaced(old: str, new: str) -> Callable[[str], str]:
    return lambda text: re.sub(old, new, text, count=1)


def line(text: str) -> Callable[[str], str]:
    return lambda content: content + text + "\n"


YOLO: Faults = [
    (line("9 0.5 0.5 0.1 0.1"), "labels have a class that data.yaml or classes.txt does not list"),
    (line("1 0.5 0.5 0.1"), "lines of label files cannot be read"),
    (line("RBC 0.5 0.5 0.1 0.1"), "lines of label files cannot be read"),
    (line("1 300 200 50 60"), "single boxes seem to hold pixels"),
    (lambda text: text + text.splitlines()[0] + "\n", "boxes are there more than once, with the same class"),
    (line("1 0.98 0.5 0.3 0.1"), "boxes reach out of their image"),
    (line("1 0.5 0.5 0.0 0.1"), "boxes have no area"),
    (line("1 0.5 0.5 0.1 0.1 0.9"), "lines have six numbers"),
    (line("1 -0.5 0.5 0.1 0.1"), "boxes lie outside of their image"),
    (line("1 nan 0.5 0.1 0.1"), "boxes are not finite"),
    (lambda text: "", "images have no boxes"),
]
VOC: Faults = [
    (replaced(r"<xmin>", "<xmin>9"), "boxes have no area"),
    (replaced("<name>RBC", "<name>rbc"), "class names differ only in capitals, spaces or signs"),
    (replaced("</annotation>", ""), "annotation files cannot be read"),
    (replaced(r"<name>\w+</name>", "<name></name>"), "objects have no box or no name"),
    (replaced(r"<xmin>.*?</xmin>", ""), "objects have no box or no name"),
    (replaced(r"<ymin>.*?</ymin>", "<ymin>abc</ymin>"), "objects have no box or no name"),
    (replaced(r"<size>.*?</size>", ""), "XML files give no size of the image"),
    (replaced("<difficult>0", "<difficult>maybe"), "values of difficult are neither 0 nor 1"),
    (replaced(r"<xmax>.*?</xmax>", "<xmax>660</xmax>"), "boxes reach out of their image"),
    (replaced("<width>640</width><height>480", "<width>320</width><height>240"), "image files do not have the size"),
]
CSV: Faults = [
    (replaced(r"\n([^,]*),([^,]*),([^,]*),([^,]*),", r"\n\1,\2,\3,0,"), "boxes have no area"),
    (replaced(",RBC,", ",Rbc,"), "class names differ only in capitals, spaces or signs"),
    (replaced(",RBC,", ",,"), "rows have no box"),
    (line("a,b,c"), "rows have no box"),
    (line("nofile.jpg,10,10,50,50,RBC,640,480,0,1600"), "image files are missing"),
    (lambda text: text + text.splitlines()[-1] + "\n", "boxes are there more than once, with the same class"),
    (lambda text: text + text.splitlines()[-2].replace(",640,", ",320,") + "\n", "rows of one image have different"),
]


def set_with(format: str, faults: Faults, source: Path, folder: Path) -> Path:
    """Write a set, and put each fault into another file of train, or all into its one table."""
    convert(source, folder, to=format, images="copy")
    if format == "csv":
        files = [folder / "train.csv"] * len(faults)
    elif format == "yolo":
        files = sorted((folder / "labels" / "train").glob("*.txt"))
    else:
        names = (folder / "ImageSets" / "Main" / "train.txt").read_text().split()
        files = [folder / "Annotations" / f"{name}.xml" for name in names]
    assert len(files) >= len(faults)
    for file, (spoil, _) in zip(files, faults, strict=False):
        before = file.read_text()
        file.write_text(spoil(before))
        assert file.read_text() != before
    return folder


def check(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    status = main(["data", "check", *map(str, arguments), "--no-estimate", "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("format", "faults"), [("yolo", YOLO), ("voc", VOC), ("csv", CSV)])
def test_all_faults_are_named_and_the_copy_has_none(
    format: str, faults: Faults, photo_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = set_with(format, faults, photo_sets / "bccd", tmp_path / "broken")
    assert check(capsys, root)[0] == 1
    status, found = check(capsys, root, "--fix", tmp_path / "fixed")
    texts = [row["text"] for row in found["findings"]]
    for _, expected in faults:
        assert any(text.startswith(expected) for text in texts), (expected, texts)
    assert all(row["advice"] for row in found["findings"])
    assert status == 0
    assert {source.format for source in find_data(tmp_path / "fixed").parts.values()} == {format}
    left = [row["text"] for row in found["fixed"]["check"]["findings"] if row["severity"] != "note"]
    assert left == []


def test_labels_without_images_and_a_wrong_number_of_classes_are_named(
    photo_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(photo_sets / "bccd", tmp_path / "yolo", to="yolo", images="copy")
    image = next((tmp_path / "yolo" / "images" / "train").iterdir())
    image.unlink()
    data = tmp_path / "yolo" / "data.yaml"
    data.write_text(data.read_text().replace("names:", "nc: 4\nnames:"))
    found = {row["text"]: row for row in check(capsys, tmp_path / "yolo")[1]["findings"] if row["split"] == "train"}
    assert found["label files have no image"]["examples"] == [f"{image.stem}.txt"]
    assert "data.yaml has nc: 4, but 3 names" in found


def test_boxes_are_named_by_their_number_where_a_format_has_no_ids(
    photo_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(photo_sets / "bccd", tmp_path / "voc", to="voc", images="copy")
    stem = (tmp_path / "voc" / "ImageSets" / "Main" / "train.txt").read_text().split()[2]
    file = tmp_path / "voc" / "Annotations" / f"{stem}.xml"
    boxes = file.read_text().split("<bndbox>")
    boxes[3] = re.sub("<xmax>.*?</xmax>", "<xmax>650</xmax>", boxes[3])
    file.write_text("<bndbox>".join(boxes))
    found = {row["text"]: row for row in check(capsys, tmp_path / "voc")[1]["findings"]}
    assert found["boxes reach out of their image"]["examples"] == [f"box 3 of {stem}.jpg"]
