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
from torch.utils.data import DataLoader

from objemb.examples.base import Example
from objemb.models.build import origins, save_model, versions
from objemb.training.folder import RunFolder
from objemb.training.journal import Journal
from objemb.training.order import StepOrder
from objemb.training.packing import Packed, pack, unpack
from objemb.training.progress import RunProgress
from objemb.training.run import Run
from objemb.training.settings import PRECISIONS, RunSettings
from objemb.training.task import Task


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
        folder: Of the run, see :class:`objemb.training.folder.RunFolder`; ``folder / "model"`` is what ``objemb index
            --model`` takes.
        config: All settings, as they are kept in ``config.yaml`` and compared when a run goes on; by default those of
            the run and of the task.
        force: Start anew, whatever run is in the folder.
        command: The command line, for the provenance of the model.
        quiet: No progress on stderr.

    Returns:
        ``metrics.json``: ``steps``, ``finished``, ``last`` (figures of the last validation with their step) and
        ``best`` (per figure the greatest value and its step). In other processes than the first one it is empty.

    Raises:
        TrainingError: Another run's folder, a loss that is not finite, a checkpoint that could not be written. The
            last good checkpoint is intact, and the same call goes on from it.
        ImportError: Lightning or TensorBoard is not installed.
    """
    place = RunFolder(folder)
    first = _rank() == 0
    if first:
        place.open(config or {"task": dict(task.settings), "run": settings.to_json()}, force=force)
    done = None if force else place.finished()
    if done is not None:
        if first and not quiet:
            print(f"{place.path}: finished after {done['steps']} steps", file=sys.stderr)
        return done if first else {}
    run = _train(task, settings, place, quiet=quiet)
    return _leave(run, command) if first else {}


def _train(task: Task, settings: RunSettings, folder: RunFolder, *, quiet: bool) -> Run:
    """All steps that are left."""
    with _without_noise():
        adapter = _adapter(task, settings, folder, quiet=quiet)
        trainer = _trainer(settings, folder)
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(adapter)
        except SystemExit as stop:  # what the trainer makes of Ctrl-C
            signal.signal(signal.SIGINT, handler)
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        finally:
            if hasattr(adapter, "run"):
                adapter.run.close()
    task.to(trainer.strategy.root_device)  # the trainer leaves it on the CPU
    return adapter.run


def _leave(run: Run, command: Sequence[str]) -> dict[str, Any]:
    """Write the model and the metrics; the latter last, as they say that the run is finished."""
    folder, task, settings = run.folder, run.task.eval(), run.settings
    if run.ema is not None:
        task.load_state_dict(run.ema.average)
    with torch.no_grad():
        model = task.model()
    origin = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "weights": origins(task.settings),
        "training": {
            "task": type(task).__name__,
            "data": task.settings.get("data"),
            "run": settings.to_json(),
            "examples": len(task.examples),
        },
        "versions": {**versions(), "lightning": _lightning().__version__},
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
    }
    save_model(replace(model, provenance={**model.provenance, **origin}), folder.model, force=True)
    task.finish(folder.path)
    metrics = {"steps": run.step, "finished": True, "last": run.last, "best": run.best}
    folder.write_metrics(metrics)
    return metrics


def _adapter(task: Task, settings: RunSettings, folder: RunFolder, *, quiet: bool) -> Any:
    """A module for the trainer that hands everything on to the task and its run."""

    class Adapter(_lightning().LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.task = task
            self.run: Run

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
            if run.rank == 0:
                run.journal = Journal(folder.path, run.step)
                run.progress = RunProgress(settings.steps, run.step, quiet=quiet)
                if run.step:
                    run.progress.note(f"going on after step {run.step}")
            task.train()

        def train_dataloader(self) -> DataLoader[Example]:
            return _loader(task, settings, self.run.step, self.trainer.global_rank, self.trainer.world_size)

        def transfer_batch_to_device(self, batch: list[Packed], device: torch.device, number: int) -> list[Packed]:
            del device, number  # photos differ in size: the task brings what it needs of them to its device
            return batch

        def training_step(self, batch: list[Packed], number: int) -> Tensor:
            del number
            return self.run.loss(unpack(batch))

        def on_train_batch_end(self, outputs: Any, batch: list[Packed], number: int) -> None:
            del outputs, batch, number
            run = self.run
            run.stepped()
            if run.rank == 0 and run.checkpoint_is_due():
                scaler = self.trainer.precision_plugin.state_dict()
                folder.checkpoints.save({**run.state(), "precision": scaler})
            if run.validation_is_due():
                self.trainer.strategy.barrier()  # the others wait for what the first one does alone

    return Adapter()


def _trainer(settings: RunSettings, folder: RunFolder) -> Any:
    """Lightning's trainer, of which only the loop, the devices and the precision are used."""
    processes, nodes = _launched() or (settings.devices, 1)
    if settings.batch % (processes * nodes):
        raise ValueError(
            f"run.batch: expected a multiple of the {processes * nodes} processes, which share it, "
            f"found {settings.batch}"
        )
    return _lightning().Trainer(
        accelerator=settings.accelerator,
        devices=processes,
        num_nodes=nodes,
        strategy="auto" if processes * nodes == 1 else "ddp",
        precision=PRECISIONS[settings.precision],
        gradient_clip_val=settings.clip or None,
        max_epochs=1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder.path,
    )


def _loader(task: Task, settings: RunSettings, start: int, rank: int, processes: int) -> DataLoader[Example]:
    """The batches of the steps that are left, of one process."""
    count = len(task.examples)
    if count == 0:
        raise ValueError("data: expected at least one example, found none")
    order = StepOrder(
        count, settings.batch, settings.seed, range(start, settings.steps), rank=rank, processes=processes
    )
    return DataLoader(
        task.examples,  # type: ignore[arg-type]  # has a length and items
        batch_sampler=order,
        num_workers=settings.workers,
        collate_fn=pack,
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
