"""Twenty optimizer steps of a real run, against numbers that were written down once.

A change that is not meant to alter training leaves ``tests/golden/demo_losses.json`` as it is. One that is meant to
writes it anew, in the same commit, with:

    python tests/runs/test_golden_trajectory.py
"""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet.config import load_config
from effdet.data.demo import draw_demo
from effdet.runs.process_state import process_state
from effdet.runs.train import prepare_run
from effdet.training.distributed import World

GOLDEN = Path(__file__).parents[1] / "golden" / "demo_losses.json"
STEPS = 20
# Another processor rounds otherwise. With small steps and BN statistics of the backbone that stay, the difference does
# not grow: without oneDNN's kernels it was 1e-4, 4e-4, 8e-2, 2e-3 and 2e-3 at most.
TOLERANCE = {"lr": 1e-6, "class_loss": 1e-3, "box_loss": 2e-3, "gradient_norm": 0.2, "weights": 0.01, "average": 0.01}

CONFIG = """
model: {{name: lite0, stochastic_depth: 0.0}}
data: {{root: {root}, image_size: [64, 64], workers: 0, augment: {{scale: [0.8, 1.25]}}}}
train: {{epochs: 10, batch_size: 8, accumulate: 2, lr: 0.0004, ema_decay: 0.9, fused: false, freeze_bn: true}}
run: {{dir: {root}/runs, name: golden, device: cpu, threads: 1, seed: 0}}
"""


def trajectory(folder):
    """Return the numbers of twenty steps with PyTorch's own kernels, in float32 and one thread."""
    draw_demo(folder, num_train=16, num_val=2, seed=0)
    (folder / "golden.yaml").write_text(CONFIG.format(root=folder))
    config = load_config(folder / "golden.yaml")
    cpu = torch.device("cpu")
    with process_state(cpu, seed=config.run.seed, threads=1), contextlib.ExitStack() as lock:
        run, _ = prepare_run(config, World(cpu), None, lock)
        trainer = run.trainer
        rows, norms, step, clip = [], [], trainer.step, trainer.clip_gradient
        start = [p.detach().clone() for p in trainer.model.parameters()]

        def distance(model):
            pairs = zip(model.parameters(), start, strict=True)
            return float(torch.stack([(p.detach() - before).double().norm() for p, before in pairs]).norm())

        def clip_and_note():
            norms.append(float(clip()))
            return torch.tensor(norms[-1])

        def step_and_note(batches, number, *, stop=False):
            result = step(batches, number, stop=stop)
            rows.append({"lr": trainer.optimizer.param_groups[0]["lr"], **result.losses, "gradient_norm": norms[-1]})
            rows[-1] |= {"weights": distance(trainer.model), "average": distance(trainer.ema.model)}
            return result

        trainer.clip_gradient, trainer.step = clip_and_note, step_and_note
        run.evaluate = lambda model: {"ap": 0.0}
        run.save_best = lambda model: None
        run.run()
    return rows


@pytest.mark.slow
def test_twenty_steps_give_the_numbers_that_were_written_down(tmp_path):
    expected, found = json.loads(GOLDEN.read_text()), trajectory(tmp_path)
    assert len(expected) == len(found) == STEPS
    for name, tolerance in TOLERANCE.items():
        before, now = (np.array([row[name] for row in rows]) for rows in (expected, found))
        np.testing.assert_allclose(now, before, rtol=tolerance, err_msg=name)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        rounded = [{name: float(f"{value:.7g}") for name, value in row.items()} for row in trajectory(Path(place))]
    lines = [json.dumps(row) for row in rounded]
    GOLDEN.write_text("[\n  " + ",\n  ".join(lines) + "\n]\n")
