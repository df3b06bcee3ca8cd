"""Runs the training steps with Lightning's trainer, which manages devices, processes, precision and the loop.

The only file that uses Lightning. It subclasses one of Lightning's classes, so this module is itself imported inside a
function.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import warnings
from collections.abc import Iterator

import lightning.pytorch
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer

from objemb.checks import TerminatedError, TrainingError
from objemb.training.data.base import Example
from objemb.training.loading import Failed, batches, expect_examples
from objemb.training.logger import RunLogger
from objemb.training.progress import RunProgress
from objemb.training.run import Run
from objemb.training.run_folder import RunFolder
from objemb.training.settings import PRECISIONS, RunSettings
from objemb.training.task import Task
from objemb.training.termination import Termination

#: Loggers through which the trainer prints hints and advertisements.
LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


def train(task: Task, settings: RunSettings, folder: RunFolder, *, quiet: bool) -> Run:
    """Take all remaining steps of a run.

    Args:
        task: The task to train.
        settings: Settings of the run.
        folder: The run's folder, already open.
        quiet: Whether to print no progress on stderr.

    Returns:
        The run after its last step; its task is on the device that it was trained on.

    Raises:
        TrainingError, TerminatedError, ValueError: See :func:`objemb.training.runner.fit`.
    """
    with _without_hints(), Termination(quiet=quiet) as termination:
        module = _RunModule(task, settings, folder, termination, quiet=quiet)
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer = _trainer(settings, folder)
            trainer.fit(module)
        except (Exception, SystemExit) as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # the trainer turns it into SystemExit
                signal.signal(signal.SIGINT, handler)
                raise KeyboardInterrupt from None
            if termination.asked and not isinstance(stop, TerminatedError):
                raise TerminatedError(f"ended by SIGTERM; {module.resumption}") from stop
            _explain(stop, module.resumption)
            raise
        finally:
            if module.started:
                module.run.close()
    task.to(trainer.strategy.root_device)  # the trainer leaves it on the CPU
    return module.run


class _RunModule(lightning.pytorch.LightningModule):
    """Passes the trainer's hooks to a task and its run.

    Attributes:
        run: The run; it exists once the trainer has requested the optimiser.
        started: Whether the run exists.
        kept: Number of steps that the last checkpoint includes.
    """

    run: Run

    def __init__(
        self, task: Task, settings: RunSettings, folder: RunFolder, termination: Termination, *, quiet: bool
    ) -> None:
        super().__init__()
        self.task, self.settings, self.folder = task, settings, folder
        self.termination, self.quiet = termination, quiet
        self.started, self.kept = False, 0

    @property
    def resumption(self) -> str:
        """The step from which the same command would resume the run, in words."""
        kept = self.kept
        return f"the same command resumes after step {kept}" if kept else "the same command starts again from step 0"

    def configure_optimizers(self) -> Optimizer:
        trainer = self.trainer
        self.run = Run(
            self.task,
            self.settings,
            self.folder,
            rank=trainer.global_rank,
            processes=trainer.world_size,
            any_process=functools.partial(trainer.strategy.reduce_boolean_decision, all=False),
        )
        self.started = True
        return self.run.optimizer

    def on_fit_start(self) -> None:
        run = self.run
        state = self.folder.checkpoints.load()
        if state is None and run.any_process(run.rank == 0 and run.begin()):
            self._save()
            self.trainer.strategy.barrier()
            state = self.folder.checkpoints.load()
        if state is not None:
            run.restore(state)
            self.trainer.precision_plugin.load_state_dict(state["precision"])
            self.kept = run.step
        if run.rank == 0:
            run.logger = RunLogger(self.folder.path, run.step, validated=not run.validation_is_due())
            run.progress = RunProgress(self.settings.steps, run.step, quiet=self.quiet)
            if run.step:
                run.progress.note(f"resuming after step {run.step}")
        self.task.train()
        self._validate()  # a run that was interrupted during validation resumes with it

    def on_train_start(self) -> None:
        self.termination.take_over()  # the trainer's handler communicates with other processes at any time

    def train_dataloader(self) -> object:
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        return batches(self.task.examples, self.settings, self.run.step, rank=rank, processes=processes)

    def transfer_batch_to_device(self, batch: object, device: torch.device, dataloader_idx: int) -> object:
        del device, dataloader_idx  # photos differ in size: the task moves what it needs to its device
        return batch

    def training_step(self, batch: list[Example] | Failed, batch_idx: int) -> Tensor:
        del batch_idx
        return self.run.loss(expect_examples(batch))

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        del outputs, batch, batch_idx
        self.run.stepped()
        self._end_if_asked()
        if self.run.validation_is_due():
            self._save()  # validation takes long and may fail
            self._validate()
            self._end_if_asked()
        elif self.run.checkpoint_is_due():
            self._save()

    def _validate(self) -> None:
        """Validate if it is due; only the first process does so, and the others wait for it."""
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
            self.folder.checkpoints.save({**run.state(), "precision": scaler})
        self.kept = run.step

    def _end_if_asked(self) -> None:
        if self.run.any_process(self.termination.asked):
            if self.kept != self.run.step:
                self._save()
            raise TerminatedError(f"ended by SIGTERM; {self.resumption}")


def _trainer(settings: RunSettings, folder: RunFolder) -> lightning.pytorch.Trainer:
    """Lightning's trainer; only its loop, devices and precision are used."""
    launched = _launched()
    processes, nodes = launched or (settings.devices, 1)
    if settings.batch % (processes * nodes):
        raise ValueError(f"run.batch: expected a multiple of the {processes * nodes} processes, found {settings.batch}")
    # by default the trainer starts processes when it sees SLURM's variables, and writes its own checkpoints
    environment = None if launched else LightningEnvironment()
    return lightning.pytorch.Trainer(
        plugins=environment,
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
    """(processes on this machine, machines) if torchrun started this process, otherwise None."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])


def _explain(error: BaseException, resumption: str) -> None:
    """Raise an error that a user can fix, with its remedy; return for all others."""
    text = " ".join(str(error).split())
    if isinstance(error, MisconfigurationException):
        raise ValueError(f"run: expected settings for this machine, found: {text}") from error
    if isinstance(error, torch.OutOfMemoryError):
        raise TrainingError(
            f"expected a batch that fits into memory, found: {text}. Start a new run with a smaller run.batch or with "
            f"run.precision=bf16; {resumption}"
        ) from error
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        raise TrainingError(
            f"expected the data loading processes to keep running, found: {text}. The system kills them when memory or "
            f"shared memory is short; reduce run.workers; {resumption}"
        ) from error


@contextlib.contextmanager
def _without_hints() -> Iterator[None]:
    """Silences the trainer's hints and advertisements within; what matters is raised as an error."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
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
