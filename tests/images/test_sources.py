from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effdet.images.reading import ImageError, read_image
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
    with pytest.raises(ImageError, match="the folder itself holds no images"):
        names(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"\*\.jpg: no image or video file matches"):
        names(str(tmp_path / "*.jpg"))
    with pytest.raises(TypeError, match=r"a source must be a path.*got float"):
        names(1.5)


def test_bytes_of_every_kind_are_sources(folder: Path) -> None:
    data = (folder / "a.PNG").read_bytes()
    expected = read_image(folder / "a.PNG")
    with (folder / "a.PNG").open("rb") as file:
        for source in (data, bytearray(data), memoryview(data), io.BytesIO(data), file, [data], (io.BytesIO(data),)):
            ((name, image),) = iterate_images(source)
            assert name == "<bytes 0>"
            np.testing.assert_array_equal(image, expected)
    assert [name for name, _ in iterate_images([data, folder / "b.jpg", data])][::2] == ["<bytes 0>", "<bytes 2>"]


def test_bytes_that_are_no_image_are_named() -> None:
    with pytest.raises(ImageError, match="<bytes 0>: is not an image of a known format"):
        list(iterate_images(b"hello"))
    for short in (b"x", b"abc"):
        with pytest.raises(ImageError, match="<bytes 0>: is not an image of a known format"):
            list(iterate_images(short))
    with pytest.raises(ImageError, match="<bytes 0>: is an empty file"):
        list(iterate_images(b""))


def test_open_files_that_give_nothing_are_named(folder: Path) -> None:
    read, closed = io.BytesIO((folder / "b.jpg").read_bytes()), io.BytesIO(b"x")
    assert names(read) == ["<bytes 0>"]
    closed.close()
    with pytest.raises(ImageError, match=r"got one that was read to its end; call seek\(0\)$"):
        names([read])
    with pytest.raises(ValueError, match=r"must be open, got a closed one$"):
        names(closed)
    with pytest.raises(ImageError, match="<bytes 0>: is an empty file"):
        names(io.BytesIO())


def test_a_text_that_is_no_path_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)  # an empty text is not the folder of the process
    with pytest.raises(FileNotFoundError, match="must be a path or a pattern, got an empty text"):
        names("")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (5, "int"),
        (None, "NoneType"),
        ({"a": 1}, "dict"),
        ([b"", [3.5]], "float"),
        (io.StringIO("x"), "a text file; open it with mode 'rb'"),
    ],
)
def test_a_wrong_type_is_named_before_anything_is_read(source: object, kind: str) -> None:
    with pytest.raises(TypeError, match=f"a source must be a path, .*, got {kind}"):
        iterate_images(source)


def test_an_open_file_that_gives_no_bytes_is_named() -> None:
    class Upload:
        def read(self) -> str:
            return "text"

    with pytest.raises(TypeError, match="an open file must give bytes, got str"):
        list(iterate_images(Upload()))


def test_what_a_folder_leaves_out_is_named_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "clip.ts").touch()
    (folder / ".hidden").touch()
    (folder / "empty").mkdir()
    names(folder)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{folder}: left out the sub-folders sub; to take their images too, give '{folder}/**/*'; "
        "left out the videos clip.ts; give them by name; left out notes.txt: not image files"
    )
    assert names(f"{folder}/**/b.jpg") == ["b.jpg"]
    assert len(names(f"{folder}/**/*.jpg")) == 3


def test_a_folder_with_images_only_in_sub_folders_names_them(tmp_path: Path, rgb: np.ndarray) -> None:
    (tmp_path / "day1").mkdir()
    Image.fromarray(rgb).save(tmp_path / "day1" / "a.jpg")
    with pytest.raises(ImageError, match=r"itself holds no images .*sub-folders day1; .* give '.*/\*\*/\*'"):
        names(tmp_path)


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path, rgb: np.ndarray) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe\n.png"))
    Image.fromarray(rgb).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(path)
    ((name, image),) = iterate_images(tmp_path)
    assert Path(name) == path
    np.testing.assert_array_equal(image, rgb)
