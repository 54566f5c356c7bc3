"""The learned fusion weights of a run: recorded while it trains, read back, and drawn as in the paper's Figure 5."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from effdet.atomic_write import replace_file
from effdet.models.necks.fusion import WeightedFusion

FILE = "fusion_weights.csv"
ROWS = 100  # of a whole run, about
LINE_STYLES = ("-", "--", ":", "-.")  # one a run


def fusion_shares(neck: nn.Module) -> dict[str, Tensor]:
    """Return the share of each input of each node of a neck, by the name of the node.

    Args:
        neck: ``model.network.neck``.

    Returns:
        Node, such as "layers.0.top_down.1", → (I,) shares of its inputs in the order of the formula of its layer; the
        mean over channels where each channel has weights of its own. Empty where the neck adds without weights.
    """
    shares = {}
    for name, module in neck.named_modules():
        if isinstance(module, WeightedFusion):
            weights = module.weights().detach()
            shares[name.removesuffix(".fuse")] = weights if weights.ndim == 1 else weights.mean(1)
    return shares


class FusionLog:
    """Writes the fusion shares of a neck to the run folder, about a hundred times in a run.

    Args:
        folder: The run folder; None makes every method silent, as on all processes but the main one.
        neck: Its weights are read whenever a row is due.
        total_steps: Optimizer steps of the whole run.
    """

    def __init__(self, folder: Path | None, neck: nn.Module, *, total_steps: int) -> None:
        learns = any(isinstance(module, WeightedFusion) for module in neck.modules())
        self.path = folder / FILE if folder is not None and learns else None
        self.neck, self.every = neck, max(1, total_steps // ROWS)
        self._rows: list[dict[str, str]] | None = None

    def step(self, step: int) -> None:
        """Write the row of a step if it is time for one.

        Rows of this and later steps, which an earlier part of the run may have left, are dropped.
        """
        if self.path is None or step % self.every:
            return
        if self._rows is None:
            self._rows = [row for row in _read_rows(self.path) if int(row["step"]) < step]
        row = {"step": str(step)}
        for node, shares in fusion_shares(self.neck).items():
            row |= {f"{node}:{index}": f"{share:.5g}" for index, share in enumerate(shares.tolist())}
        self._rows.append(row)
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, list(row))
        table.writeheader()
        table.writerows(self._rows)
        with replace_file(self.path) as file:
            file.write(text.getvalue().encode())


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class FusionHistory:
    """The fusion weights of one run over its steps."""

    name: str  # of the run folder
    steps: tuple[int, ...]
    shares: dict[str, npt.NDArray[np.float64]]  # node → (steps, inputs)


def read_fusion_weights(run: str | Path) -> FusionHistory:
    """Return the fusion weights that a run recorded.

    Args:
        run: The run folder.

    Raises:
        FileNotFoundError: If the run recorded none.
    """
    rows = _read_rows(Path(run) / FILE)
    if not rows:
        raise FileNotFoundError(
            f"a run must have a {FILE}, which {run} lacks; train a neck that learns fusion weights, such as "
            "model.architecture.fusion=fast, with this version"
        )
    columns: dict[str, list[list[float]]] = {}
    for name in list(rows[0])[1:]:
        columns.setdefault(name.rpartition(":")[0], []).append([float(row[name]) for row in rows])
    return FusionHistory(
        name=Path(run).resolve().name,
        steps=tuple(int(row["step"]) for row in rows),
        shares={node: np.array(values).T for node, values in columns.items()},
    )


def plot_fusion_weights(
    runs: Sequence[str | Path], picture: str | Path, *, nodes: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Draw the shares of the inputs of some nodes over the steps of runs, as in the paper's Figure 5.

    A colour is an input of the node, a style of line is a run.

    Args:
        runs: Run folders, at most four, with necks of the same nodes.
        picture: The PNG to write.
        nodes: Names of nodes; None: the three whose shares move most.

    Returns:
        The names of the nodes that are drawn.

    Raises:
        FileNotFoundError: If a run recorded no fusion weights.
        ValueError: If there is no run or more than four, or a run has no such node.
    """
    if not 1 <= len(runs) <= len(LINE_STYLES):
        raise ValueError(f"a picture must have 1 to {len(LINE_STYLES)} runs, got {len(runs)}")
    histories = [read_fusion_weights(run) for run in runs]
    chosen = tuple(nodes or _most_moved(histories, 3))
    for history in histories:
        for node in chosen:
            if node not in history.shares:
                known = ", ".join(history.shares)
                raise ValueError(f"every run must have the node '{node}', but {history.name} has {known}")
    _draw(histories, chosen, picture)
    return chosen


def _most_moved(histories: Sequence[FusionHistory], count: int) -> list[str]:
    """Return the nodes of several inputs whose shares move most over the steps, in their order."""
    moved = {
        node: sum(float(np.ptp(each.shares[node], axis=0).max()) for each in histories if node in each.shares)
        for node, shares in histories[0].shares.items()
        if shares.shape[1] > 1
    }
    best = sorted(moved, key=lambda node: -moved[node])[:count]
    return [node for node in moved if node in best]


def _draw(histories: Sequence[FusionHistory], nodes: Sequence[str], picture: str | Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(nodes), 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, len(nodes), squeeze=False, sharey=True)[0]
    for axes, node in zip(panels, nodes, strict=True):
        for history, style in zip(histories, LINE_STYLES, strict=False):
            for index, shares in enumerate(history.shares[node].T):
                axes.plot(history.steps, shares, style, color=f"C{index}", label=f"input {index + 1}, {history.name}")
        axes.set(title=node, xlabel="step")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share of the input")
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    figure.savefig(picture)
