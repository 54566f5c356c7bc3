"""Where a search keeps its trials: a storage of Optuna that several processes share and that survives a kill.

A process holds the lock of a trial's folder while it works on it. The operating system releases the lock when the
process ends, however it ends. So a trial that is "running" while nobody holds its lock was interrupted: it is closed,
and a new trial continues in the same folder.
"""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effdet.install import hint
from effdet.runs.lock import RunInUseError, lock_run

logger = logging.getLogger(__name__)

CONTINUES, INTERRUPTED, ATTEMPT, HOST, FOLDER = "continues", "interrupted", "attempt", "host", "folder"
MOST_ATTEMPTS = 3  # a trial that each time ends its process without a signal to stop is given up


def import_optuna() -> Any:
    """Return the module.

    Raises:
        ImportError: If it is not installed; the message says how to install it.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError(f"a search needs optuna; install it with: {hint('search')}", name="optuna") from error
    return optuna


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna's own lines out of the log for the time of the block."""
    optuna = import_optuna()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def open_study(storage: str, name: str, settings: Mapping[str, Any], **options: Any) -> Any:
    """Return the study of a name in a storage, a new one or the one that was begun there.

    Args:
        storage: A file, which becomes a journal, or the URL of a database such as ``sqlite:///search.db``.
        name: Of the study in the storage.
        settings: Plain values that must be equal in all processes of a search.
        options: Of ``optuna.create_study``.

    Raises:
        ImportError: If Optuna, or the driver of the database, is not installed.
        ValueError: If the storage cannot be opened, or holds a search of this name with other settings.
    """
    optuna = import_optuna()
    try:
        study = optuna.create_study(storage=_storage(optuna, storage), study_name=name, load_if_exists=True, **options)
    except (ImportError, OSError):
        raise
    except Exception as error:  # each database has errors of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"the storage must be a file or the URL of a database, got {storage}: {reason}") from error
    before = study.user_attrs.get("settings")
    if before is None:
        study.set_user_attr("settings", dict(settings))
        return study
    differing = [key for key in sorted({*before, *settings}) if before.get(key) != settings.get(key)]
    if differing:
        raise ValueError(
            f"{storage} holds a search '{name}' whose {', '.join(differing)} differ from those given now; continue it "
            "with its own, or begin another with another --out"
        )
    return study


def _storage(optuna: Any, storage: str) -> Any:
    if "://" in storage:
        return storage
    file = Path(storage)
    file.parent.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(str(file))
    return optuna.storages.JournalStorage(backend)


def take_up_interrupted(study: Any) -> None:
    """Put the trials of this machine that were interrupted at the head of the queue.

    Trials of other machines are left alone: only there can it be seen whether somebody works on them.
    """
    optuna = import_optuna()
    states = optuna.trial.TrialState
    trials = study.get_trials(deepcopy=False)
    continued = {trial.user_attrs.get(CONTINUES) for trial in trials}
    for trial in trials:
        is_here = trial.user_attrs.get(HOST) == platform.node()
        if trial.state == states.RUNNING and is_here and not _is_locked(Path(trial.user_attrs[FOLDER])):
            study.tell(trial.number, state=states.FAIL)
        elif not (trial.state == states.FAIL and trial.user_attrs.get(INTERRUPTED) and is_here):
            continue
        if trial.number in continued:
            continue
        attempt = trial.user_attrs.get(ATTEMPT, 1) + (INTERRUPTED not in trial.user_attrs)
        if attempt > MOST_ATTEMPTS:
            logger.warning("trial %d has ended its process %d times and is given up", trial.number, MOST_ATTEMPTS)
            continue
        logger.info("trial %d was interrupted and is taken up again", trial.number)
        kept = {name: trial.user_attrs[name] for name in (FOLDER, HOST)}
        study.enqueue_trial(trial.params, user_attrs={CONTINUES: trial.number, ATTEMPT: attempt, **kept})


def _is_locked(folder: Path) -> bool:
    try:
        with lock_run(folder):
            return False
    except RunInUseError:
        return True
    except FileNotFoundError:  # killed before it made the folder, or the folder was deleted
        return False


def counted(study: Any) -> list[Any]:
    """Return the trials that count towards the number asked for: all but those that another trial continues."""
    trials = study.get_trials(deepcopy=False)
    continued = {trial.user_attrs.get(CONTINUES) for trial in trials}
    return [trial for trial in trials if trial.number not in continued]
