from __future__ import annotations

import builtins
import os
import re
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from effdet.images.reading import ImageError
from effdet.images.sources import iterate_images
from effdet.images.video import Video, VideoWriter
from effdet.install import hint


def write_video(path: Path, num_frames: int) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(num_frames):
            image = np.full((48, 64, 3), (40 * number, 0, 200), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_video_gives_its_frames_in_order(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", num_frames=5)
    frames = list(iterate_images(tmp_path / "a.mp4"))
    assert [Path(name).name for name, _ in frames] == [f"a.mp4#{number}" for number in range(5)]
    for number, (_, image) in enumerate(frames):
        assert image.shape == (48, 64, 3)
        np.testing.assert_allclose(image.mean(axis=(0, 1)), (40 * number, 0, 200), atol=8)


def test_broken_video_and_missing_reader_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(ImageError, match=r"a\.mp4: not a readable video"):
        list(iterate_images(tmp_path / "a.mp4"))

    with wave.open(str(tmp_path / "sound.avi"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    with pytest.raises(ImageError, match=r"sound\.avi: holds no video stream"):
        list(iterate_images(tmp_path / "sound.avi"))

    real_import = builtins.__import__

    def without_av(name: str, *args: object, **kwargs: object) -> object:
        if name == "av":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(ImageError, match=re.escape(f"needs PyAV; install it with: {hint('video')}")):
        list(iterate_images(tmp_path / "a.mp4"))


def test_odd_frames_get_an_even_size(tmp_path):
    av = pytest.importorskip("av")
    with VideoWriter(tmp_path / "odd.mp4", Fraction(10)) as video:
        video.write(np.zeros((33, 47, 3), np.uint8))
    with av.open(str(tmp_path / "odd.mp4")) as container:
        assert [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)] == [(34, 48, 3)]


def test_what_is_no_video_is_named(tmp_path):
    pytest.importorskip("av")
    with pytest.raises(FileNotFoundError, match=r"gone.mp4: no such video"):
        Video(tmp_path / "gone.mp4").__enter__()
    (tmp_path / "noise.mp4").write_bytes(b"noise" * 100)
    with pytest.raises(ImageError, match=r"noise.mp4: not a readable video"):
        Video(tmp_path / "noise.mp4").__enter__()


def test_without_pyav_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImageError, match=re.escape(f"video needs PyAV; install it with: {hint('video')}")):
        VideoWriter(tmp_path / "out.mp4", Fraction(5))


def test_typescript_is_no_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "index.ts").write_text("export const x = 1;\n")
    with pytest.raises(ImageError, match=r"index\.ts: not a video: an MPEG transport stream begins with the byte 0x47"):
        list(iterate_images(tmp_path / "index.ts"))


@pytest.mark.parametrize("suffix", [".ts", ".flv", ".3gp", ".mkv", ".mts"])
def test_videos_of_every_container_are_read(tmp_path: Path, suffix: str) -> None:
    av = pytest.importorskip("av")
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a:b\xff" + suffix.encode()))
    kind = {".ts": "mpegts", ".mts": "mpegts", ".mkv": "matroska", ".3gp": "3gp", ".flv": "flv"}[suffix]
    with path.open("wb") as file, av.open(file, "w", format=kind) as container:
        stream = container.add_stream("flv" if suffix == ".flv" else "mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for noise in np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    assert len(list(iterate_images(path))) == 30


def test_only_regular_files_are_videos(tmp_path: Path) -> None:
    pytest.importorskip("av")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ImageError, match=r"pipe\.mp4: must be a regular file"):
        list(iterate_images(tmp_path / "pipe.mp4"))
