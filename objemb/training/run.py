"""State and steps of a run, independent of the trainer that calls them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from objemb.checks import TrainingError
from objemb.training.data.base import Example
from objemb.training.ema import Ema
from objemb.training.logger import TRAIN, VALIDATION, RunLogger
from objemb.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from objemb.training.progress import RunProgress
from objemb.training.run_folder import RunFolder
from objemb.training.sampler import seed_everything, step_seed
from objemb.training.settings import RunSettings
from objemb.training.task import Task

#: Maximum number of image names in an error message; the report has all of them.
MAX_NAMES = 8


class Run:
    """State and steps of a run in one of its processes.

    Args:
        task: The task, already on its device.
        settings: Settings of the run.
        folder: The run's folder; only process 0 writes to it.
        rank: Number of this process.
        processes: Number of processes.
        any_process: Returns ``True`` in all processes if it is called with ``True`` in at least one.

    Attributes:
        step: Number of steps done.
        last: Figures of the last validation, with its ``step``.
        best: Greatest ``value`` of each figure and its ``step``.
    """

    def __init__(
        self,
        task: Task,
        settings: RunSettings,
        folder: RunFolder,
        *,
        rank: int = 0,
        processes: int = 1,
        any_process: Callable[[bool], bool] = lambda flag: flag,
    ) -> None:
        self.task, self.settings, self.folder = task, settings, folder
        self.rank, self.processes, self.any_process = rank, processes, any_process
        self.optimizer = make_optimizer(task.parameter_groups(), settings)
        self.ema = Ema(task, settings.ema) if settings.ema else None
        self.step = 0
        self.last: dict[str, object] = {}
        self.best: dict[str, dict[str, float]] = {}
        self.logger: RunLogger | None = None
        self.progress: RunProgress | None = None
        self._terms: dict[str, Tensor] = {}

    def state(self) -> dict[str, object]:
        """Everything that is needed to resume the run: tensors and plain values."""
        return {
            "step": self.step,
            "task": dict(self.task.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "last": self.last,
            "best": self.best,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume from a state.

        Raises:
            TrainingError: The state is that of another task.
        """
        try:
            self.task.load_state_dict(state["task"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{self.folder.checkpoints.file}: expected the state of this task, found another: {error}"
            ) from error
        self.step, self.last, self.best = state["step"], state["last"], state["best"]

    @torch.no_grad()
    def begin(self) -> bool:
        """Call :meth:`Task.begin`, then start the average of the weights; returns what it returned."""
        seed_everything(self.settings.seed)
        changed = self.task.begin()
        if changed and self.ema is not None:
            self.ema = Ema(self.task, self.settings.ema)
        return changed

    def loss(self, batch: Sequence[Example]) -> Tensor:
        """The scalar loss of the next step; sets seeds and the learning rate before computing it.

        Raises:
            TrainingError: The loss is NaN or infinite in this or another process.
        """
        set_learning_rate(self.optimizer, learning_rate(self.step, self.settings))
        seed_everything(step_seed(self.settings.seed, self.step, self.rank))
        terms = self.task.losses(batch)
        total = torch.stack([t.float() for t in terms.values()]).sum()
        self._stop_if_not_finite(total, terms, batch)
        self._terms = {**{k: v.detach() for k, v in terms.items()}, "loss": total.detach()}
        # a batch without a loss term is an ordinary step, since processes wait for the gradients of all parameters
        return total if total.requires_grad and self.processes == 1 else total + self._nothing()

    def stepped(self) -> None:
        """Called after the optimiser's step: updates the average and the log."""
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.task)
        if self.rank == 0:
            self._log()

    def validation_is_due(self) -> bool:
        """Whether a validation is due after the last step and, in the first process, has not been done yet."""
        due = self._due(self.settings.validate_every) or self.step == self.settings.steps
        return self.step > 0 and due and self.last.get("step") != self.step

    def checkpoint_is_due(self) -> bool:
        """Whether the state is to be saved after the last step."""
        return self._due(self.settings.checkpoint_every) or self.step == self.settings.steps

    def validate(self) -> None:
        """Compute figures and pictures of the task, with the averaged weights if there are any."""
        seed_everything(step_seed(self.settings.seed, self.step, self.rank))  # also if the run is resumed here
        if self.progress is not None:
            self.progress.phase = "validating"
        with self.averaged(), torch.no_grad():
            self.task.eval()
            measured = {k: float(v) for k, v in self.task.validate().items()}
            figures = {k: v for k, v in measured.items() if math.isfinite(v)}  # NaN: there was nothing to measure
            pictures = self.task.pictures()
        self.task.train()
        self.last = {"step": self.step, **figures}
        for name, value in figures.items():
            if name not in self.best or value > self.best[name]["value"]:
                self.best[name] = {"value": value, "step": self.step}
        if self.logger is not None:
            self.logger.write(self.step, VALIDATION, figures)
            self.logger.show(self.step, pictures)
        if self.progress is not None:
            self.progress.phase = "training"
        if self.progress is not None and figures:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            self.progress.note(f"validation after step {self.step}: {shown}")

    def close(self) -> None:
        """Close the log and the progress bar."""
        if self.logger is not None:
            self.logger.close()
        if self.progress is not None:
            self.progress.close()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the task its averaged weights within the context, if there are any."""
        with contextlib.nullcontext() if self.ema is None else self.ema.swapped_into(self.task):
            yield

    def _nothing(self) -> Tensor:
        """A zero loss with a zero gradient for every parameter."""
        return torch.stack([p.sum() for p in self.task.parameters() if p.requires_grad]).sum() * 0

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _log(self) -> None:
        if self.progress is not None:
            self.progress.step(self.step)
        if not self._due(self.settings.log_every) and self.step != self.settings.steps:
            return
        values = {k: float(v) for k, v in self._terms.items()}
        if self.logger is not None:
            rate = learning_rate(self.step - 1, self.settings)
            self.logger.write(self.step, TRAIN, {**values, "lr": rate})
        if self.progress is not None:
            self.progress.figures(self.step, values)

    def _stop_if_not_finite(self, total: Tensor, terms: Mapping[str, Tensor], batch: Sequence[Example]) -> None:
        here = not bool(torch.isfinite(total))
        if not self.any_process(here):
            return
        if not here:
            raise TrainingError(f"step {self.step}: the loss of another process is not finite")
        names = [e.photo.id for e in batch]
        values = {k: float(v.detach()) for k, v in terms.items()}
        losses = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}  # JSON has neither NaN nor infinity
        report = self.folder.write_nonfinite({"step": self.step, "losses": losses, "images": names}, self.rank)
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        raise TrainingError(
            f"step {self.step}: expected a finite loss, found {losses} for the images "
            f"{', '.join(names[:MAX_NAMES])}{more}; all names are in {report}. A smaller learning rate (run.lr), "
            f"gradient clipping (run.clip) or precision 32 may help if these images are valid"
        )
