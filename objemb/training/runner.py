"""Runs a task on Lightning's trainer: devices, processes, precision and the loop are its affair, and nothing else."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from objemb import checks
from objemb.checks import ObjembError, TerminatedError, TrainingError
from objemb.models.build import save_model, versions
from objemb.models.origins import origins
from objemb.registry import plain
from objemb.training.loading import Failed, batches, unpacked
from objemb.training.logger import RunLogger
from objemb.training.packing import Packed
from objemb.training.progress import RunProgress
from objemb.training.run import Run
from objemb.training.run_folder import AFTER, RunFolder
from objemb.training.settings import PRECISIONS, RunSettings
from objemb.training.task import Task
from objemb.training.termination import Termination


def fit(
    task: Task,
    settings: RunSettings,
    folder: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    force: bool = False,
    command: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
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
        return _leave(run, command, after) if first else {}


def _train(task: Task, settings: RunSettings, folder: RunFolder, *, quiet: bool) -> Run:
    """All steps that are left."""
    with _without_noise(), Termination(quiet=quiet) as termination:
        adapter = _adapter(task, settings, folder, termination, quiet=quiet)
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer = _trainer(settings, folder)
            trainer.fit(adapter)
        except (Exception, SystemExit) as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # the trainer makes SystemExit of it
                signal.signal(signal.SIGINT, handler)
                raise KeyboardInterrupt from None
            if termination.asked and not isinstance(stop, TerminatedError):
                raise TerminatedError(f"ended by SIGTERM; {_where(adapter)}") from stop
            _explain(stop, adapter)
            raise
        finally:
            if hasattr(adapter, "run"):
                adapter.run.close()
    task.to(trainer.strategy.root_device)  # the trainer leaves it on the CPU
    return adapter.run


def _where(adapter: Any) -> str:
    """From where a run goes on, in words."""
    kept = adapter.kept
    return f"the same command goes on after step {kept}" if kept else "the same command begins it again"


def _explain(error: BaseException, adapter: Any) -> None:
    """Raise what a user can mend as such: the libraries below make faults of their own of it."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    text = " ".join(str(error).split())
    if isinstance(error, MisconfigurationException):
        raise ValueError(f"run: expected settings for this machine, found: {text}") from error
    if isinstance(error, torch.OutOfMemoryError):
        raise TrainingError(
            f"expected a batch that fits into memory, found: {text}. A smaller run.batch, or run.precision=bf16, needs "
            f"less, in a new run; {_where(adapter)}"
        ) from error
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        raise TrainingError(
            f"expected the processes that load examples to live, found: {text}. The system ends them where memory, or "
            f"shared memory, is short: fewer run.workers need less; {_where(adapter)}"
        ) from error


def _leave(run: Run, command: Sequence[str], after: Mapping[str, Any]) -> dict[str, Any]:
    """Write the model and the metrics; the latter last, as they say that the run is finished."""
    folder, task, settings = run.folder, run.task.eval(), run.settings
    if run.ema is not None:
        task.load_state_dict(run.ema.average)
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
        "versions": {**versions(), "lightning": _lightning().__version__},
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


def _adapter(task: Task, settings: RunSettings, folder: RunFolder, termination: Termination, *, quiet: bool) -> Any:
    """A module for the trainer that hands everything on to the task and its run."""

    class Adapter(_lightning().LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.task = task
            self.run: Run
            self.kept = 0  # steps that the last checkpoint knows

        def configure_optimizers(self) -> Optimizer:
            trainer = self.trainer
            any_process = functools.partial(trainer.strategy.reduce_boolean_decision, all=False)
            self.run = Run(
                task,
                settings,
                folder,
                rank=trainer.global_rank,
                processes=trainer.world_size,
                any_process=any_process,
            )
            return self.run.optimizer

        def on_fit_start(self) -> None:
            run = self.run
            state = folder.checkpoints.load()
            if state is not None:
                run.restore(state)
                self.trainer.precision_plugin.load_state_dict(state["precision"])
                self.kept = run.step
            if run.rank == 0:
                run.logger = RunLogger(folder.path, run.step, validated=not run.validation_is_due())
                run.progress = RunProgress(settings.steps, run.step, quiet=quiet)
                if run.step:
                    run.progress.note(f"going on after step {run.step}")
            task.train()
            self._validate()  # a run that ended while it did goes on with that

        def on_train_start(self) -> None:
            termination.take_over()  # the trainer's handler talks to other processes, whatever they are doing

        def train_dataloader(self) -> Any:
            rank, processes = self.trainer.global_rank, self.trainer.world_size
            return batches(task.examples, settings, self.run.step, rank=rank, processes=processes)

        def transfer_batch_to_device(self, batch: list[Packed], device: torch.device, number: int) -> list[Packed]:
            del device, number  # photos differ in size: the task brings what it needs of them to its device
            return batch

        def training_step(self, batch: list[Packed] | Failed, number: int) -> Tensor:
            del number
            return self.run.loss(unpacked(batch))

        def on_train_batch_end(self, outputs: Any, batch: Any, number: int) -> None:
            del outputs, batch, number
            self.run.stepped()
            self._end_if_asked()
            if self.run.validation_is_due():
                self._save()  # validating takes long, and may fail
                self._validate()
                self._end_if_asked()
            elif self.run.checkpoint_is_due():
                self._save()

        def _validate(self) -> None:
            """What is due; the other processes wait for what the first one does alone."""
            if not self.run.validation_is_due():
                return
            if self.run.rank == 0:
                self.run.validate()
            self._save()
            self.trainer.strategy.barrier()

        def _save(self) -> None:
            run = self.run
            if run.rank == 0:
                scaler = self.trainer.precision_plugin.state_dict()
                folder.checkpoints.save({**run.state(), "precision": scaler})
            self.kept = run.step

        def _end_if_asked(self) -> None:
            if self.run.any_process(termination.asked):
                if self.kept != self.run.step:
                    self._save()
                raise TerminatedError(f"ended by SIGTERM; {_where(self)}")

    return Adapter()


def _trainer(settings: RunSettings, folder: RunFolder) -> Any:
    """Lightning's trainer, of which only the loop, the devices and the precision are used."""
    processes, nodes = _launched() or (settings.devices, 1)
    if settings.batch % (processes * nodes):
        raise ValueError(
            f"run.batch: expected a multiple of the {processes * nodes} processes, which share it, "
            f"found {settings.batch}"
        )
    from lightning.pytorch.plugins.environments import LightningEnvironment

    # by itself the trainer would take SLURM's variables for a wish to start processes, and write checkpoints of its own
    plugins = [] if _launched() else [LightningEnvironment()]
    return _lightning().Trainer(
        plugins=plugins,
        accelerator=settings.accelerator,
        devices=processes,
        num_nodes=nodes,
        strategy="auto" if processes * nodes == 1 else "ddp",
        precision=PRECISIONS[str(settings.precision)],
        gradient_clip_val=settings.clip or None,
        max_epochs=1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder.path,
    )


def _launched() -> tuple[int, int] | None:
    """(processes of this machine, machines) where torchrun has started them, None otherwise."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])


def _rank() -> int:
    """The number of this process, also before the trainer knows it."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def _lightning() -> Any:
    try:
        import lightning.pytorch
    except ImportError as error:
        raise ImportError("training needs lightning: pip install 'objemb[train]'") from error
    return lightning.pytorch


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """The trainer's hints, tips and advertisements stay unsaid; what matters comes as errors."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    _lightning()
    loggers = [logging.getLogger(n) for n in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
