"""Search for architectures: propose, measure, train for a short time, repeat; in one process or in many."""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock

from effdet.adaptation.search.results import SearchResult, Trial, read_trials, write_results
from effdet.adaptation.search.reward import Reward
from effdet.adaptation.search.space import SearchSpace
from effdet.adaptation.search.storage import (
    FOLDER,
    HOST,
    INTERRUPTED,
    counted,
    import_optuna,
    open_study,
    quiet_optuna,
    take_up_interrupted,
)
from effdet.adaptation.search.trial import (
    Plan,
    Price,
    Scored,
    as_text,
    from_random_weights,
    summary,
    train_trial,
    trial_config,
)
from effdet.config import Config, ConfigError, config_to_yaml
from effdet.data.dataset import Dataset
from effdet.models.architecture import Architecture
from effdet.runs.architecture import architecture_of
from effdet.runs.data import read_for_training
from effdet.runs.input_size import fit_input
from effdet.runs.lock import lock_run
from effdet.runs.resolve import resolve

logger = logging.getLogger(__name__)

QUEUE = ".queue.lock"  # in the folder of a search: its processes begin trials one after the other
Objective = Literal["reward", "pareto"]
Sampler = Literal["tpe", "random", "nsga2", "qmc"]
Pruner = Literal["median", "halving", "hyperband", "none"]


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How a search is done.

    Raises:
        ValueError: If a value is unknown or out of its range, or pruning is asked for without a single objective.
    """

    folder: Path
    reward: Reward
    price: Price = field(default_factory=Price)
    objective: Objective = "reward"  # maximise the reward; or AP and cost as two objectives
    sampler: Sampler = "tpe"
    pruner: Pruner | None = None  # ends trials early that fall behind; None: median for the reward, else none
    trials: int = 50  # architectures to try, of all processes together
    hours: float = math.inf  # after this time the process begins no trial
    images: int = 2000  # training images that a trial sees, with repetitions
    skip_above: float = 3.0  # an architecture that costs this many times the target is not trained
    storage: str | None = None  # a file or the URL of a database; None: a file in the folder
    name: str = "search"  # name of the search in the storage
    seed: int | None = None  # seed of the sampler; None: another in each process

    def __post_init__(self) -> None:
        kinds = (("objective", Objective), ("sampler", Sampler), ("pruner", Pruner))
        for name, kind in kinds:
            value = getattr(self, name)
            if value not in get_args(kind) and not (name == "pruner" and value is None):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got '{value}'")
        if self.pruner not in (None, "none") and self.objective == "pareto":
            raise ValueError("a pruner needs a single objective to compare trials by; leave it out, or take the reward")
        if self.sampler == "nsga2" and self.objective == "reward":
            raise ValueError("the sampler nsga2 is for several objectives; take tpe, or the objective pareto")
        for name, least in (("trials", 1), ("images", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if self.seed is not None and not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must lie in 0…{2**31 - 1}, got {self.seed}")
        for name in ("hours", "skip_above"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def search_architectures(config: Config, space: SearchSpace, settings: SearchSettings) -> SearchResult:
    """Search for architectures that are accurate and cheap on the data of a config, as ``effdet search`` does.

    Each trial proposes an architecture, measures its cost and trains it for a short time. A trial that cannot be built,
    or that fails in training, is recorded with its error, and the search goes on. Called again with the same folder it
    continues: a trial that was interrupted goes on from its last checkpoint. Several processes, also on several
    machines, share a search if they have the same storage.

    Args:
        config: Data, training and the model to start from; ``model.weights`` must be null. Trials start from
            ``model.backbone_weights``, but from random weights if the space has blocks or φ.
        space: What is free.
        settings: How it is done.

    Returns:
        All trials so far, with the best and the Pareto front. They are also in the folder, with a picture and a config
        of the best, after every trial.

    Raises:
        ConfigError: If the config and the space do not go together.
        DataError: If the data is missing or cannot be used.
        ImportError: If Optuna or the runtime is not installed.
        ValueError: If the storage holds a search with other settings.
        RuntimeError: If not one trial could be finished.
    """
    with quiet_optuna():
        search = _Search.begin(config, space, settings)
        search.run()
        return search.results()


@dataclass
class _Search:
    config: Config
    space: SearchSpace
    settings: SearchSettings
    base: Architecture
    train: Dataset
    plan: Plan
    study: Any

    @classmethod
    def begin(cls, config: Config, space: SearchSpace, settings: SearchSettings) -> _Search:
        import_optuna()
        if settings.folder.exists() and not settings.folder.is_dir():
            raise ValueError(f"the results of a search must go to a folder, got the file {settings.folder}")
        if config.model.weights is not None:
            raise ConfigError(
                f"model.weights must be null in a search, because they fit one architecture only, got "
                f"{config.model.weights}"
            )
        space.check(architecture_of(config.model))
        config, train, _ = read_for_training(config)
        base = architecture_of(config.model)
        input_size = resolve(config, train).data.image_size
        assert input_size is not None
        base = replace(base, image_size=input_size)
        settings.folder.mkdir(parents=True, exist_ok=True)
        plan = Plan.of(settings.images, len(train))
        with FileLock(settings.folder / QUEUE):  # two processes that make the tables of a database disturb each other
            study = _open(settings, _identity(config, space, settings, base, train), plan)
        return cls(config, space, settings, base, train, plan, study)

    def run(self) -> None:
        """Do trials until there are enough or the time is over."""
        settings = self.settings
        end = time.monotonic() + 3600 * settings.hours
        with self._queue():
            take_up_interrupted(self.study)
        while time.monotonic() < end:
            with ExitStack() as lock:
                begun = self._begin_trial(lock)
                if begun is None:
                    return
                self._finish(*begun)
            write_results(self.results(or_fail=False), settings.folder)

    def results(self, *, or_fail: bool = True) -> SearchResult:
        """Return all trials so far."""
        found = read_trials(counted(self.study), self.settings.reward)
        result = SearchResult(
            trials=found,
            folder=self.settings.folder,
            config=self.config,
            reward=self.settings.reward,
            unit=self.settings.price.unit,
        )
        if or_fail and not result.finished:
            raise RuntimeError(_nothing_finished(found))
        return result

    def _queue(self) -> AbstractContextManager[Any]:
        return FileLock(self.settings.folder / QUEUE)

    def _begin_trial(self, lock: ExitStack) -> tuple[Any, Path] | None:
        """Return the next trial and its folder, which ``lock`` holds; None if there are enough."""
        states = import_optuna().trial.TrialState
        with self._queue():
            trials = counted(self.study)
            if len(trials) >= self.settings.trials and all(trial.state != states.WAITING for trial in trials):
                return None
            trial = self.study.ask()
            folder = Path(trial.user_attrs.get(FOLDER, ""))
            if trial.user_attrs.get(HOST) != platform.node():
                folder = (self.settings.folder / "trials" / f"{trial.number:04d}").absolute()
            folder.mkdir(parents=True, exist_ok=True)
            lock.enter_context(lock_run(folder))
            trial.set_user_attr(FOLDER, str(folder))
            trial.set_user_attr(HOST, platform.node())
        return trial, folder

    def _finish(self, trial: Any, folder: Path) -> None:
        """Do a trial and tell the study what came of it."""
        optuna = import_optuna()
        states = optuna.trial.TrialState
        try:
            values = self._evaluate(trial, folder)
        except optuna.TrialPruned as reason:
            trial.set_user_attr("error", str(reason))
            self.study.tell(trial, state=states.PRUNED)
            logger.info("trial %d: ended early, %s", trial.number, reason)
        except Exception as error:
            sentence = f"{type(error).__name__}: {error}".splitlines()[0]
            trial.set_user_attr("error", sentence)
            self.study.tell(trial, state=states.FAIL)
            logger.warning("trial %d: failed, %s", trial.number, sentence)
            logger.debug("trial %d", trial.number, exc_info=True)
        except KeyboardInterrupt:
            trial.set_user_attr(INTERRUPTED, True)
            self.study.tell(trial, state=states.FAIL)
            raise
        else:
            self.study.tell(trial, values)
            logger.info(summary(trial.number, trial.user_attrs, self.settings.reward, self.settings.price.unit))

    def _evaluate(self, trial: Any, folder: Path) -> list[float]:
        """Return the values of the study's objectives."""
        architecture = self.space.propose(trial, self.base, fit_input=self._fit_input)
        trial.set_user_attr("architecture", architecture.to_dict())
        scored = self._equal_trial(architecture)
        if scored is None:
            cost = self._cost(trial, architecture)
            logger.info("trial %d: %s, %s", trial.number, as_text(cost, self.settings.price.unit), dict(trial.params))
            start = from_random_weights(self.config) if self.space.makes_backbones else self.config
            config = trial_config(start, architecture, self.plan, folder)
            result = train_trial(config, folder, after_evaluation=self._reporter(trial, cost))
            scored = {"cost": cost, **asdict(result)}
        for name, value in scored.items():
            trial.set_user_attr(name, value)
        ap, cost = scored["ap"], scored["cost"]
        return [self.settings.reward(ap, cost)] if self.settings.objective == "reward" else [ap, cost]

    def _fit_input(self, long_side: int) -> tuple[int, int]:
        return fit_input(long_side, self.train.sizes)

    def _equal_trial(self, architecture: Architecture) -> dict[str, Any] | None:
        """Return the numbers of a finished trial with this architecture, which need not be trained twice."""
        for trial in read_trials(counted(self.study), self.settings.reward):
            if trial.is_finished and trial.architecture == architecture:
                return {"cost": trial.cost, "ap": trial.ap, "epochs": trial.epochs, "seconds": 0.0}
        return None

    def _cost(self, trial: Any, architecture: Architecture) -> float:
        """Return what an architecture costs; raise TrialPruned if that is far too much."""
        cost = self.settings.price.of(architecture, self.train.num_classes)
        trial.set_user_attr("cost", cost)
        limit = self.settings.skip_above * self.settings.reward.target
        if cost > limit:
            raise import_optuna().TrialPruned(f"{cost:.4g} {self.settings.price.unit} are more than {limit:.4g}")
        return cost

    def _reporter(self, trial: Any, cost: float) -> Callable[[int, float], None]:
        """Return the function that reports an evaluation, and ends the trial if it falls behind."""

        def report(epoch: int, ap: float) -> None:
            trial.set_user_attr("ap", ap)
            trial.set_user_attr("epochs", epoch)
            if self.settings.objective == "pareto":
                return
            trial.report(self.settings.reward(ap, cost), step=epoch)
            if trial.should_prune():
                raise import_optuna().TrialPruned(f"behind others after epoch {epoch} with AP {ap:.4f}")

        return report


def _nothing_finished(trials: list[Trial]) -> str:
    errors = [trial.error for trial in trials if trial.error]
    last = f"; the last one: {errors[-1].rstrip('.')}" if errors else ""
    return f"a search must finish at least one trial, but none of {len(trials)} did{last}"


def _identity(
    config: Config, space: SearchSpace, settings: SearchSettings, base: Architecture, train: Dataset
) -> dict[str, Any]:
    """Return what all processes of a search must have in common, as plain values by words for an error message."""
    stopwatch = settings.price.stopwatch
    return {
        "model and training": config_to_yaml(replace(config, data=type(config.data)(), run=type(config.run)())),
        "augmentation": str(asdict(config.data.augment)),
        "base architecture": base.to_dict(),
        "data": train.fingerprint(),
        "space": space.to_dict(),
        "reward": asdict(settings.reward),
        "cost": None if stopwatch is None else asdict(stopwatch),
        "objective": settings.objective,
        "images": settings.images,
    }


def _open(settings: SearchSettings, identity: dict[str, Any], plan: Plan) -> Any:
    storage = settings.storage or str(settings.folder / "journal.log")
    directions = ["maximize"] if settings.objective == "reward" else ["maximize", "minimize"]
    study = open_study(storage, settings.name, identity, directions=directions, pruner=_pruner(settings, plan))
    begun = len(study.get_trials(deepcopy=False))
    study.sampler = _sampler(settings.sampler, None if settings.seed is None else settings.seed + begun)
    return study


def _sampler(name: Sampler, seed: int | None) -> Any:
    samplers = import_optuna().samplers
    if name == "tpe":
        return samplers.TPESampler(seed=seed, constant_liar=True)  # so that parallel processes try different things
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed)
    return samplers.QMCSampler(seed=seed) if name == "qmc" else samplers.RandomSampler(seed=seed)


def _pruner(settings: SearchSettings, plan: Plan) -> Any:
    """Return what ends trials early; it judges no trial before half of its epochs, when AP is still noise."""
    half = max(1, plan.epochs // 2)
    pruners = import_optuna().pruners
    name = settings.pruner or ("median" if settings.objective == "reward" else "none")
    return {
        "median": lambda: pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=half),
        "halving": lambda: pruners.SuccessiveHalvingPruner(min_resource=half),
        "hyperband": lambda: pruners.HyperbandPruner(min_resource=half, max_resource=plan.epochs),
        "none": lambda: pruners.NopPruner(),
    }[name]()


__all__ = ["Objective", "Pruner", "Sampler", "Scored", "SearchSettings", "search_architectures"]
