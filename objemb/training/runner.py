"""From a task to a folder with a model: a run is begun, or gone on with, and what follows its last step is done."""

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
    """Train a task, or go on where an earlier run into the same folder stopped, and leave a model.

    On one process the final weights are, bit for bit, those of a run that was never interrupted. With several devices,
    or under ``torchrun``, this is called in each process; the first one writes.

    Args:
        task: What is learned.
        settings: How.
        folder: Of the run, see :class:`objemb.training.run_folder.RunFolder`; ``folder / "model"`` is what
            ``objemb index --model`` takes.
        config: All settings, as they are kept in ``config.yaml`` and compared when a run goes on; by default those of
            the run and of the task.
        force: Start anew, whatever run is in the folder.
        command: The command line, for the provenance of the model.
        quiet: No progress on stderr.

    Returns:
        ``metrics.json``: ``steps``, ``finished``, ``last`` (figures of the last validation with their step) and
        ``best`` (per figure the greatest value and its step). In other processes than the first one it is empty.

    Raises:
        TrainingError: Another run's folder, a loss that is not finite, an example that cannot be made, a checkpoint
            that could not be written, a model that could not be left. The last good checkpoint is intact, and the same
            call goes on from it.
        TerminatedError: SIGTERM has come; the state is kept, and the same call goes on from it.
        ValueError: A device that this machine does not have, or settings of which the task knows before the first step
            that they cannot lead to a model.
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
    """All steps that are left."""
    try:
        from objemb.training import _lightning
    except ImportError as error:
        raise ImportError("training needs lightning: pip install 'objemb[train]'") from error
    return _lightning.train(task, settings, folder, quiet=quiet)


def _export(run: Run, command: Sequence[str], after: Mapping[str, object]) -> dict[str, object]:
    """Write the model, then the metrics, which say that the run is finished."""
    folder, task, settings = run.folder, run.task.eval(), run.settings
    if run.ema is not None:
        run.ema.copy_to(task)
    origin = {
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
        may = f", also with other settings of {checks.listed(after)}" if after else ""
        raise TrainingError(
            f"{error}. All {run.step} steps are done and kept in {folder.checkpoints.file}: the same command{may} does "
            f"again what follows them, and no step"
        ) from error
    metrics = {"steps": run.step, "finished": True, "last": run.last, "best": run.best}
    folder.write_metrics({**metrics, **({AFTER: plain(after)} if after else {})})
    return metrics


def _rank() -> int:
    """The number of this process, also before the trainer knows it."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))
