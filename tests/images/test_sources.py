from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effdet.images.reading import ImageError
from effdet.images.sources import iterate_images


def names(source: object) -> list[str]:
    return [Path(name).name for name, _ in iterate_images(source)]


@pytest.fixture
def folder(tmp_path: Path, rgb: np.ndarray) -> Path:
    for name in ("b.jpg", "a.PNG", "sub/c.jpg", "odd[1].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rgb).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_files_folders_globs_and_lists_are_read_by_name(folder: Path) -> None:
    assert names(folder / "b.jpg") == ["b.jpg"]
    assert names(str(folder / "odd[1].jpg")) == ["odd[1].jpg"]  # not a pattern: the file exists
    assert names(folder) == ["a.PNG", "b.jpg", "odd[1].jpg"]
    assert names(str(folder / "*.jpg")) == ["b.jpg", "odd[1].jpg"]
    assert names(str(folder / "**" / "*.jpg")) == ["b.jpg", "odd[1].jpg", "c.jpg"]
    assert names([folder / "b.jpg", [folder / "a.PNG"]]) == ["b.jpg", "a.PNG"]


def test_images_in_memory_are_numbered(folder: Path, rgb: np.ndarray) -> None:
    tensors = torch.zeros(2, 3, 8, 9)
    found = list(
        iterate_images([rgb, folder / "b.jpg", Image.fromarray(rgb), tensors, np.zeros((1, 5, 6, 3), np.uint8)])
    )
    assert [Path(name).name for name, _ in found] == ["image-0", "b.jpg", "image-2", "image-3", "image-4", "image-5"]
    assert [image.shape[:2] for _, image in found] == [(32, 48), (32, 48), (32, 48), (8, 9), (8, 9), (5, 6)]
    with Image.open(folder / "b.jpg") as opened:
        assert names(opened) == ["b.jpg"]


def test_images_are_read_when_they_are_asked_for(folder: Path) -> None:
    images = iterate_images([folder / "b.jpg", folder / "gone.jpg"])
    assert Path(next(images)[0]).name == "b.jpg"
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg: no such image, folder or video"):
        next(images)


def test_sources_without_images_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the folder holds no images"):
        names(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"\*\.jpg: no image or video file matches"):
        names(str(tmp_path / "*.jpg"))
    with pytest.raises(TypeError, match=r"a source must be a path.*got float"):
        names(1.5)
