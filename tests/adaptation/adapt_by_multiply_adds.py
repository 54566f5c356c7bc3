"""Adapt a detector where a network's latency is its millions of multiply-adds, so that every run chooses the same.

python adapt_by_multiply_adds.py WEIGHTS DATA FOLDER
"""

import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from effdet.adaptation import AdaptSettings, adapt, latency, netadapt
from effdet.config import load_config


def count(detectors, **options):
    """Return millions of multiply-adds, in the place of ``measure_latencies``."""
    result = []
    for detector in detectors:
        images = torch.empty(1, len(detector.mean), *detector.image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            detector.network(images)
        result.append(counter.get_total_flops() / 2e6)
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    latency.measure_latencies = netadapt.measure_latencies = count
    weights, data, folder = sys.argv[1:]
    model = [f"model.weights={weights}", "model.name=null", "model.backbone_weights=null", f"data.root={data}"]
    train = [
        "train.epochs=1",
        "train.batch_size=4",
        "train.lr=0.001",
        "data.workers=0",
        "train.fused=false",
        "run.report=false",
    ]
    config = load_config("custom", [*model, *train])
    total = count([netadapt.EfficientDet.from_pretrained(weights)])[0]
    settings = AdaptSettings(target_ms=0.8 * total, step_ms=0.1 * total, short_steps=1, held_out=0.3, runtime="torch")
    adapt(config, settings, folder)
