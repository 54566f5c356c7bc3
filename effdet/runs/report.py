"""Write the report of a run, of a model on a data set, or of a results file; and compare runs."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.atomic_write import replace_file
from effdet.config import load_config
from effdet.evaluation.analysis import Analysis, analyse
from effdet.evaluation.backends import ResultsSource
from effdet.evaluation.coco import CocoMetrics, evaluate_coco
from effdet.images.reading import ImageError
from effdet.report.comparison import Candidate, comparison_numbers
from effdet.report.gallery import MAX_IMAGES, make_gallery
from effdet.report.numbers import About, report_numbers
from effdet.report.page import render_comparison, render_report
from effdet.runs.report_facts import (
    about_run,
    anchor_recall,
    facts_of_machine,
    facts_of_model,
    findings_of,
    history_of_run,
)
from effdet.visualize import as_rgb

if TYPE_CHECKING:
    import torch

    from effdet.config import Config
    from effdet.data.dataset import Dataset
    from effdet.detector.efficientdet import EfficientDet
    from effdet.detector.prediction import Detector
    from effdet.detector.views import Views
    from effdet.runs.evaluate import Evaluation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """The files of a report, and the score threshold that it recommends."""

    page: Path  # HTML, with all pictures inside
    numbers: Path  # JSON
    threshold: float | None  # None where nothing was detected rightly, or several detectors are compared


def report_run(
    folder: str | Path, *, out: str | Path | None = None, device: str = "auto", max_images: int = MAX_IMAGES
) -> Report:
    """Write ``report.html`` and ``report.json`` of a run: its best model on its validation images.

    Args:
        folder: Of the run, with ``config.yaml`` and ``best.safetensors``.
        out: Folder of the report; None: that of the run.
        device: On which the model detects; auto: cuda if there is one.
        max_images: In the gallery, the worst first.

    Raises:
        FileNotFoundError: If a file of the run is missing.
        ConfigError, DataError: If its config or data cannot be read.
        ImportError: If jinja2 is not installed.
    """
    folder = Path(folder)
    config, model, val = _open_run(folder, device)
    return report_model(
        model,
        val,
        Path(out or folder),
        about=about_run(folder, config),
        max_images=max_images,
        **_views_of_run(config),
    )


def report_training(folder: Path, best: EfficientDet, val: Dataset, device: torch.device) -> None:
    """Write the report of a run that has just ended, and store its threshold in ``best.safetensors``.

    A report that cannot be written is a line in the log: the training has succeeded.

    Args:
        folder: Of the run.
        best: Its best model, which gets the threshold, too; it stays where it is.
        val: Validation images.
        device: On which a copy of the model detects: that of the training.
    """
    try:
        config = load_config(folder / "config.yaml")
        model = copy.deepcopy(best).to(device)
        done = report_model(model, val, folder, about=about_run(folder, config), **_views_of_run(config))
        if done.threshold is not None:
            best.predict_threshold = done.threshold
            best.save_pretrained(folder / "best.safetensors")
        logger.info("report: %s", done.page)
    except Exception as error:
        logger.warning("the report could not be written: %s", error)


def report_model(
    model: Detector,
    dataset: Dataset,
    out: str | Path,
    *,
    about: About | None = None,
    batch_size: int = 8,
    workers: int | None = None,
    views: Views | None = None,
    max_images: int = MAX_IMAGES,
) -> Report:
    """Write the report of a model on a data set.

    Args:
        model: An ``EfficientDet``, or a loaded export.
        dataset: As ``effdet.runs.data.dataset_of`` returns it.
        out: Folder, which is made.
        about: What made the model; None: what can be seen from it.
        batch_size: Images that go through the network together.
        workers: Processes that read images; None: chosen from the machine.
        views: How the model looks at each image; None: once, as a whole.
        max_images: In the gallery, the worst first.

    Raises:
        DataError, ValueError: As ``evaluate``.
        ImportError: If jinja2 is not installed.
        OSError: If a file cannot be written.
    """
    done = _evaluate(model, dataset, batch_size, workers, views)
    about = about or About(title=f"{model.name} on {dataset.annotation_file.name}", findings=findings_of(dataset))
    about = replace(
        about,
        facts={**about.facts, **facts_of_model(model, done)},
        anchors=() if views else anchor_recall(model, done.dataset),
    )
    pixels = model.letterbox.pixels
    return _write(replace(done.dataset, pixels=pixels), done.metrics, done.results, about, Path(out), max_images)


def report_results(
    results: ResultsSource,
    dataset: Dataset,
    out: str | Path,
    *,
    title: str = "results",
    max_images: int = MAX_IMAGES,
) -> Report:
    """Write the report of detections that are there already; arguments and errors are those of ``report_model``.

    Images that cannot be read are shown as their boxes alone.
    """
    about = About(
        title=title,
        facts={"data": str(dataset.annotation_file), **facts_of_machine()},
        findings=findings_of(dataset),
    )
    return _write(dataset, evaluate_coco(dataset, results), results, about, Path(out), max_images)


def compare_runs(folders: Sequence[str | Path], out: str | Path, *, device: str = "auto", seed: int = 0) -> Report:
    """Write ``comparison.html`` and ``comparison.json`` of two or more runs on the same validation images.

    Args:
        folders: Of the runs; the others are compared with the first one.
        out: Folder, which is made.
        device: On which the models detect.
        seed: Of the bootstrap over images.

    Raises:
        FileNotFoundError, ConfigError, DataError, ImportError: As ``report_run``.
        ValueError: If there is only one run, or their validation images differ.
    """
    candidates = []
    runs = [(folder, *_open_run(folder, device)) for folder in map(Path, folders)]  # all, before the first is evaluated
    for folder, config, model, val in runs:
        history = history_of_run(folder)
        done = _evaluate(model, val, **_views_of_run(config))
        candidates.append(
            Candidate(
                name=folder.resolve().name,
                metrics=done.metrics,
                analysis=analyse(done.dataset, done.results),
                history=history,
            )
        )
    numbers = comparison_numbers(candidates, seed=seed)
    return _write_files(Path(out), "comparison", render_comparison(numbers), numbers, None)


def store_threshold(path: str | Path, threshold: float) -> None:
    """Write a threshold into a weights file, as the default of ``predict``.

    Raises:
        FileNotFoundError, ValueError: As ``check_own_weights``.
    """
    from effdet.detector.efficientdet import EfficientDet

    check_own_weights(path)
    model = EfficientDet.from_pretrained(path)
    model.predict_threshold = threshold
    model.save_pretrained(path)


def check_own_weights(path: str | Path) -> None:
    """Raise unless weights are a file or a folder that this package wrote, which can hold a threshold.

    Raises:
        FileNotFoundError: If there is no such file or folder; a published name is none.
        ValueError: If another project wrote it, or it is an export.
    """
    from effdet.weights.own_format import WEIGHTS, read_safetensors

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"a threshold is stored in a file of weights, but there is no {path}")
    file = path / WEIGHTS if path.is_dir() else path
    if file.suffix != ".safetensors" or read_safetensors(file)[1] is None:
        raise ValueError(
            f"a threshold is stored in weights that this package wrote (.safetensors), got {path}; convert them "
            "(effdet convert), or give predict the threshold"
        )


def _open_run(folder: Path, device: str) -> tuple[Config, EfficientDet, Dataset]:
    from effdet.detector.efficientdet import EfficientDet
    from effdet.runs.data import read_data
    from effdet.runs.device import choose_device
    from effdet.runs.pixel_statistics import channels_of

    for name in ("config.yaml", "best.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"a report needs the folder of a run with its {name}, got {folder}")
    config = load_config(folder / "config.yaml")
    model = EfficientDet.from_pretrained(folder / "best.safetensors").to(choose_device(device, option="--device"))
    return config, model, read_data(config.data, channels=channels_of(config))[1]


def _views_of_run(config: Config) -> dict[str, Any]:
    from effdet.runs.training_tiles import validation_views

    views = validation_views(config.data)
    return {
        "batch_size": config.eval.batch_size,
        "workers": config.data.workers,
        "views": None if views.is_plain else views,
    }


def _evaluate(
    model: Detector, dataset: Dataset, batch_size: int, workers: int | None, views: Views | None
) -> Evaluation:
    from effdet.detector.views import PLAIN
    from effdet.runs.evaluate import evaluate_with_results

    views = views or PLAIN
    return evaluate_with_results(
        model,
        dataset,
        batch_size=batch_size,
        workers=workers,
        tiles=views.tiles,
        overlap=views.overlap,
        flip=views.flip,
        scales=views.scales,
    )


def _write(
    dataset: Dataset, metrics: CocoMetrics, results: ResultsSource, about: About, out: Path, max_images: int
) -> Report:
    analysis = analyse(dataset, results)
    numbers = report_numbers(metrics, analysis, about)
    gallery, crops = make_gallery(
        analysis,
        lambda index: dataset.names[index],
        lambda index: _pixels(dataset, index),
        max_images=max_images,
    )
    numbers["worst_images"] = [{"file": image["file"], "f1": image["f1"]} for image in gallery]
    numbers["mistakes"] = {
        group["kind"]: [{"file": item["file"], "text": item["text"]} for item in group["crops"]] for group in crops
    }
    return _write_files(out, "report", render_report(numbers, gallery, crops), numbers, _threshold(analysis))


def _write_files(out: Path, name: str, page: str, numbers: dict[str, Any], threshold: float | None) -> Report:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(numbers, ensure_ascii=False, allow_nan=False)
    for suffix, content in ((".html", page), (".json", text)):
        with replace_file(out / f"{name}{suffix}") as file:
            file.write(content.encode("utf-8", errors="backslashreplace"))
    return Report(out / f"{name}.html", out / f"{name}.json", threshold)


def _threshold(analysis: Analysis) -> float | None:
    best = analysis.thresholds.best
    return best.threshold if best.true_positives else None


def _pixels(dataset: Dataset, index: int) -> Any:
    try:
        return as_rgb(dataset.read(index))
    except (ImageError, OSError):
        return None
