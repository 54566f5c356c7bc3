"""A page on this machine that shows what a detector finds: drop a photo or use the camera, move the threshold."""

from __future__ import annotations

import html
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet.detector.prediction import DEFAULT_THRESHOLD
from effdet.install import hint
from effdet.structures import Detections
from effdet.visualize import as_rgb

if TYPE_CHECKING:
    from effdet.detector.prediction import Detector

WEAKEST = 0.05  # score below which nothing is shown, wherever the slider stands
MAX_MEGABYTES = 20
_NAMED = 20  # classes that the heading names
_KEEP_SECONDS = 3600  # of files that visitors have sent or made
_STYLE = "footer { display: none !important }"


def start_app(
    model: Detector, *, host: str = "127.0.0.1", port: int = 7860, max_megabytes: int = MAX_MEGABYTES, wait: bool = True
) -> Any:
    """Serve the page until Ctrl-C.

    Args:
        model: An ``EfficientDet`` in evaluation mode, or a loaded export.
        host: Address that the server listens on: only this machine reaches 127.0.0.1, the whole network 0.0.0.0.
        port: Of the server; 0: a free one.
        max_megabytes: Largest file that can be sent.
        wait: False: return at once, while the server runs in a thread.

    Returns:
        The gradio page, which has ``local_url`` and ``close()``.

    Raises:
        ImportError: If gradio is not installed.
        ValueError: If a number is out of its range.
        OSError: If the port is taken.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"port must be a number from 0 to 65535, got {port}")
    if max_megabytes < 1:
        raise ValueError(f"max_megabytes must be 1 or more, got {max_megabytes}")
    page = build_app(model)
    page.launch(
        server_name=host,
        server_port=port or _free_port(host),
        share=False,
        quiet=True,
        max_file_size=f"{max_megabytes}mb",
        prevent_thread_lock=not wait,
        **_look(),
    )
    return page


def build_app(model: Detector) -> Any:
    """Return the page as gradio's Blocks, not served yet. It loads nothing from outside and reports to nobody.

    Raises:
        ImportError: If gradio is not installed.
    """
    gradio = _import_gradio()
    threshold = DEFAULT_THRESHOLD if model.predict_threshold is None else model.predict_threshold

    with gradio.Blocks(
        title=f"{model.name} detector", analytics_enabled=False, delete_cache=(_KEEP_SECONDS,) * 2
    ) as page:
        found = gradio.State(None)
        gradio.HTML(heading(model.name, model.class_names))
        with gradio.Row():
            with gradio.Column():
                camera = gradio.WebcamOptions(mirror=False)  # boxes and letters stay where they are
                photo = gradio.Image(
                    type="filepath", sources=["upload", "webcam", "clipboard"], webcam_options=camera, label="photo"
                )
                slider = gradio.Slider(WEAKEST, 1, value=max(WEAKEST, threshold), step=0.01, label="score threshold")
            with gradio.Column():
                drawn = gradio.Image(
                    label="detections", interactive=False, format="jpeg", buttons=["download", "fullscreen"]
                )
                download = gradio.DownloadButton("download JSON", interactive=False)
                table = gradio.Dataframe(headers=["class", "score", "box (x1, y1, x2, y2)"], label="objects")
        shown = [drawn, table, download]
        photo.change(lambda path: detect(model, path), photo, found).then(show, [photo, found, slider], shown)
        slider.release(show, [photo, found, slider], shown)
    return page


def heading(name: str, class_names: Sequence[str]) -> str:
    """Return the HTML at the top of the page: which detector it is, and what it finds."""
    shown = ", ".join(class_names[:_NAMED])
    more = f" and {len(class_names) - _NAMED} more" if len(class_names) > _NAMED else ""
    return f"<h2>{html.escape(name)} detector</h2><p>It finds: {html.escape(shown)}{more}</p>"


def detect(model: Detector, path: str | None) -> Detections | None:
    """Return what the model finds in an image file with at least the weakest score; None without a file."""
    return None if path is None else model.predict(path, score_threshold=WEAKEST)[0].cpu()


def show(path: str | None, found: Detections | None, threshold: float) -> tuple[Any, list[list[Any]], Any]:
    """Return the picture, the rows of the table, and the button with the file of the detections of a threshold."""
    gradio = _import_gradio()
    if path is None or found is None:
        return None, [], gradio.DownloadButton(interactive=False)
    kept = found.above(threshold)
    rows = [[item.class_name, round(item.score, 3), ", ".join(f"{side:.0f}" for side in item.box)] for item in kept]
    file = Path(tempfile.mkdtemp(prefix="effdet-", dir=_folder())) / "detections.json"
    file.write_text(json.dumps({**kept.to_dict(), "source": ""}), encoding="utf-8")
    return kept.draw(_pixels(path)), rows, gradio.DownloadButton(value=str(file), interactive=True)


def _pixels(path: str) -> np.ndarray:
    from effdet.images.reading import read_picture

    return as_rgb(read_picture(path).pixels)


def _folder() -> str:
    folder = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _import_gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f"the app needs gradio: {hint('app')}") from error
    return gradio


def _look() -> dict[str, Any]:
    """Return a look with the fonts of the visitor's machine: gradio's own ones come from another server."""
    gradio = _import_gradio()
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
    return {"theme": gradio.themes.Default(**fonts), "css": _STYLE}


def _free_port(host: str) -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
