"""Runs a training task: starts or resumes the run, and writes the model after its last step."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from objemb import checks
from objemb.card import Provenance
from objemb.checks import ObjembError, TrainingError
from objemb.models.build import save_model, versions
from objemb.models.origins import origins
from objemb.registry import plain
from objemb.training.run import Run
from objemb.training.run_folder import AFTER, RunFolder
from objemb.training.settings import RunSettings
from objemb.training.task import Task


def fit(
    task: Task,
    settings: RunSettings,
    folder: str | Path,
    *,
    config: Mapping[str, object] | None = None,
    force: bool = False,
    command: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, object]:
    """Train a task, or resume an interrupted run in the same folder, and write the model.

    With one process the final weights of a resumed run are bit-identical to those of an uninterrupted one. With several
    devices, or under ``torchrun``, this function is called in each process; only the first one writes files.

    Args:
        task: The task to train.
        settings: Settings of the run.
        folder: The run's folder, see :class:`objemb.training.run_folder.RunFolder`; ``folder / "model"`` is a model
            folder for ``objemb index --model``.
        config: All settings, stored in ``config.yaml`` and compared when a run is resumed; by default those of the run
            and of the task.
        force: Whether to start anew, removing any run in the folder.
        command: The command line, for the provenance of the model.
        quiet: Whether to print no progress on stderr.

    Returns:
        Content of ``metrics.json``: ``steps``, ``finished``, ``last`` (figures of the last validation with their step)
        and ``best`` (greatest value of each figure and its step). Empty in all processes but the first.

    Raises:
        TrainingError: The folder contains another run, a loss is not finite, an example cannot be loaded, or a
            checkpoint or the model cannot be written. The last checkpoint is intact, and the same call resumes from it.
        TerminatedError: The process received SIGTERM; the state is saved, and the same call resumes from it.
        ValueError: This machine does not have the requested devices, or the task's settings cannot lead to a model.
        ImportError: Lightning or TensorBoard is not installed.
    """
    settings.expect_devices()
    task.check()
    place = RunFolder(folder)
    first = _rank() == 0
    after = {key: task.settings.get(key) for key in task.after}
    with place.locked() if first else contextlib.nullcontext():
        if first:
            place.open(config or {"task": dict(task.settings), "run": settings.to_json()}, force=force, after=after)
        done = None if force else place.finished(after)
        if done is not None:
            if first and not quiet:
                print(f"{place.path}: finished after {done['steps']} steps", file=sys.stderr)
            return done if first else {}
        run = _train(task, settings, place, quiet=quiet)
        return _export(run, command, after) if first else {}


def _train(task: Task, settings: RunSettings, folder: RunFolder, *, quiet: bool) -> Run:
    """Take all remaining steps."""
    try:
        from objemb.training import _lightning
    except ImportError as error:
        raise ImportError("training needs lightning: pip install 'objemb[train]'") from error
    return _lightning.train(task, settings, folder, quiet=quiet)


def _export(run: Run, command: Sequence[str], after: Mapping[str, object]) -> dict[str, object]:
    """Write the model, then the metrics, which mark the run as finished."""
    folder, task, settings = run.folder, run.task.eval(), run.settings
    if run.ema is not None:
        run.ema.copy_to(task)
    origin: Provenance = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "weights": origins(task.settings, seed=settings.seed),
        "training": {
            "task": type(task).__name__,
            "learned": list(task.learned(task.settings)),
            "data": task.settings.get("data"),
            "run": settings.to_json(),
            "examples": len(task.examples),
        },
        "versions": {**versions(), "lightning": version("lightning")},
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
    }
    try:
        with torch.no_grad():
            model = task.model()
        save_model(replace(model, provenance={**model.provenance, **origin}), folder.model, force=True)
        task.finish(folder.path)
    except (ObjembError, ValueError, TypeError, OSError, ImportError) as error:
        changes = f", also with changed settings of {checks.listed(after)}," if after else ""
        raise TrainingError(
            f"{error}. All {run.step} steps are done and saved in {folder.checkpoints.file}: the same command{changes} "
            f"repeats only what follows them"
        ) from error
    metrics = {"steps": run.step, "finished": True, "last": run.last, "best": run.best}
    folder.write_metrics({**metrics, **({AFTER: plain(after)} if after else {})})
    return metrics


def _rank() -> int:
    """The rank of this process, available before the trainer exists."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))
