"""Which endings of file names stand for images and which for videos; the one place that knows."""

from __future__ import annotations

from pathlib import Path

# .heic and .heif need another package, which the error says; every other kind is read by Pillow or OpenCV.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"}
    | {
        ".avif",
        ".heic",
        ".heif",
        ".jp2",
        ".j2k",
        ".jpx",
        ".jpf",
        ".j2c",
        ".jpc",
        ".pbm",
        ".pgm",
        ".ppm",
        ".pnm",
        ".tga",
        ".npy",
    }
)
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2"}
    | {".ts", ".mts", ".m2ts", ".ogv", ".vob", ".mxf", ".mjpeg", ".mjpg"}
)


def is_image(path: Path) -> bool:
    """Return whether the name of a file ends as that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_video(path: Path) -> bool:
    """Return whether the name of a file ends as that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES
