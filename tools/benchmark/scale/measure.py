"""Measure a large data set: how long a start takes, how much memory loader processes hold, how fast images are read.

python -m tools.benchmark.scale.make million
python -m tools.benchmark.scale.measure start million/coco
python -m tools.benchmark.scale.measure memory million/coco --workers 0 2 8
python -m tools.benchmark.scale.measure read photos photos_shards --s3
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from effdet.config import AugmentConfig
from effdet.data.dataset import Dataset
from effdet.data.formats import find_dataset
from effdet.data.loader import EvalLoader, TrainLoader
from effdet.data.unreadable_images import drop_unreadable
from effdet.images.letterbox import Letterbox

T = TypeVar("T")

_BATCHES = 20  # that loader processes make before their memory is read


def measure_start(folder: str) -> None:
    """Print the time and the memory of reading a data set, checking its files and making its fingerprint."""
    dataset = _timed("read", lambda: find_dataset(folder, "train"))
    print(f"{len(dataset):,} images, {len(dataset.labels):,} boxes")
    dataset, _ = _timed("check of all files", lambda: drop_unreadable(dataset))
    _timed("fingerprint", dataset.fingerprint)


def measure_memory(folder: str, workers: Sequence[int], start: str) -> None:
    """Print the memory of the processes together; what they share counts once (PSS)."""
    multiprocessing.set_start_method(start)
    dataset = find_dataset(folder, "train")
    for count in workers:
        loader = _train_loader(dataset, count)
        batches = loader.epoch(0)
        for _ in range(_BATCHES):
            next(batches)
        children = multiprocessing.active_children()
        parts = [_proportional_memory(process.pid or 0) for process in children]
        own = _proportional_memory(0)
        each = f", {sum(parts) / len(parts):,.0f} MB each worker" if parts else ""
        print(f"{start}, {count} workers: {own + sum(parts):,.0f} MB together, {own:,.0f} MB the main process{each}")
        del batches, loader


def measure_reading(places: Sequence[str], workers: int, count: int) -> None:
    """Print how many images a second are read, decoded and letterboxed from each place."""
    for place in places:
        dataset = find_dataset(place, "train")
        dataset = dataset.without(range(count, len(dataset)))
        letterbox = Letterbox(image_size=(512, 512), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        loader = EvalLoader(dataset, letterbox=letterbox, batch_size=8, workers=workers)
        started = time.perf_counter()
        images = sum(len(batch.images) for batch in loader)
        print(f"{place}: {images / (time.perf_counter() - started):,.0f} images/s ({images} images, {workers} workers)")


@contextlib.contextmanager
def uploaded(places: Sequence[str]) -> Iterator[list[str]]:
    """Start moto's S3 server on the loopback address, upload folders to it, and yield their addresses."""
    import fsspec

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update({**names, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        store = fsspec.filesystem("s3")
        for _ in range(100):
            try:
                store.mkdir("bucket")
                break
            except OSError:
                time.sleep(0.5)
        for number, place in enumerate(places):
            store.put(place.rstrip("/"), f"bucket/{number}", recursive=True)
        yield [f"s3://bucket/{number}" for number in range(len(places))]
    finally:
        server.terminate()
        server.wait()


def _train_loader(dataset: Dataset, workers: int) -> TrainLoader:
    return TrainLoader(
        dataset,
        image_size=(64, 64),
        batch_size=16,
        augment=AugmentConfig(),
        seed=0,
        workers=workers,
        fill=(0, 0, 0),
    )


def _timed(what: str, function: Callable[[], T]) -> T:
    started, cpu = time.perf_counter(), time.process_time()
    result = function()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{what}: {time.perf_counter() - started:.1f} s ({time.process_time() - cpu:.1f} s of the processor), "
        f"peak memory {peak:.2f} GB",
        flush=True,
    )
    return result


def _proportional_memory(process: int) -> float:
    """Return the MB that a process holds (0: this one); a page that n processes share counts as 1/n."""
    lines = Path(f"/proc/{process or 'self'}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("start").add_argument("folder")
    memory = actions.add_parser("memory")
    memory.add_argument("folder")
    memory.add_argument("--workers", type=int, nargs="+", default=[0, 2, 8])
    memory.add_argument("--start", choices=("fork", "spawn"), default="fork")
    read = actions.add_parser("read")
    read.add_argument("places", nargs="+")
    read.add_argument("--s3", action="store_true", help="also from an S3 server (moto) on the loopback address")
    read.add_argument("--workers", type=int, default=2)
    read.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    if args.action == "start":
        measure_start(args.folder)
    elif args.action == "memory":
        measure_memory(args.folder, args.workers, args.start)
    else:
        measure_reading(args.places, args.workers, args.images)
        if args.s3:
            with uploaded(args.places) as addresses:
                measure_reading(addresses, args.workers, args.images)


if __name__ == "__main__":
    main()
