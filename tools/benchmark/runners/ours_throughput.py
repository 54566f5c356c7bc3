"""Images per second of an exported file, by cores and streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from effdet.deployment.load import load_exported
from effdet.deployment.throughput import measure_throughput
from effdet.detector.batches import make_batch


class Rates:
    """Does all measurements when it is constructed; the results are in ``facts``.

    Args:
        file: An ONNX or OpenVINO file.
        photos: JPEG files; a run uses the first ones.
        batch: Images of a run, if the file has no fixed batch size.
        cores: Numbers of threads.
        streams: Numbers of runs at the same time.
        seconds: How long each pair is measured.
    """

    def __init__(
        self,
        *,
        file: str,
        photos: Sequence[str],
        batch: int,
        cores: Sequence[int],
        streams: Sequence[int],
        seconds: float,
    ) -> None:
        detector = load_exported(Path(file), runtime="openvino")
        letterbox = detector.letterbox
        pictures = [letterbox.read(photo) for photo in islice(cycle(photos), detector.description.batch or batch)]
        sizes = [picture.original_size for picture in pictures]
        made = make_batch([(picture.name, picture.pixels) for picture in pictures], letterbox, sizes)
        images = np.ascontiguousarray(detector.network_input(made))
        rates = measure_throughput(file, images, cores=cores, streams=streams, seconds=seconds)
        self.facts: dict[str, Any] = {
            "variant": detector.name,
            "image_size": list(detector.image_size),
            "precision": detector.description.precision,
            "rates": [asdict(rate) for rate in rates],
        }


TASKS = {"throughput": Rates}
