"""The contract of a task, and how one is built from a config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from objemb import registry
from objemb.layers.strided import guard_strided
from objemb.models.model import Model
from objemb.models.origins import expect_weights, told_together
from objemb.registry import Plugin
from objemb.training.data.base import NO_INSTANCE, Example, Examples
from objemb.training.sampler import seed_everything


class Task(nn.Module, Plugin, ABC):
    """A training task: data, losses, validation, and the model that a run leaves.

    A task is a plug-in: its constructor's arguments are keys of a config, with parts such as ``data`` and ``describer``
    built before it. The runner (:func:`objemb.training.runner.fit`) does the rest: batches, optimiser, precision,
    processes, checkpoints, logs. Everything that is learned must be in ``parameters()``, and everything that a run has
    to continue with in ``state_dict()``; what is frozen, such as a teacher, stays out of both.

    All randomness must come from the global generators (torch, numpy, random): the runner seeds them before each step
    from the seed of the run and the number of the step, so that a step is the same whether or not the run was
    interrupted before it.

    Attributes:
        examples: What is learned from.
        settings: The resolved settings that the task was built from, ``{"name": ..., "data": {...}, ...}``; set by
            :func:`build_task`. Parts of it are the settings of the model that is left.
        after: Keys of the settings that say only what follows the last step, such as a whitening: a run whose steps are
            done may do that again with others.
    """

    kind = "training.tasks"
    after: ClassVar[tuple[str, ...]] = ()
    examples: Examples
    settings: Mapping[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.settings = {}

    @staticmethod
    def learned(settings: Mapping[str, object]) -> tuple[str, ...]:
        """Keys of the parts whose networks are trained, such as ``describer.backbone``.

        They may begin with random values. For all others weights have to be named where there are some: nothing else
        would ever teach them.

        Args:
            settings: Of the task.
        """
        del settings
        return ()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def check(self) -> None:
        """Raise ``ValueError`` or ``ImportError`` for what would otherwise be found after the last step; called before
        the first one. Nothing by default.
        """

    def begin(self) -> bool:
        """Called on the first process before the first step, not when a run goes on, for what is not learned step by
        step, such as a layer that is fitted in closed form. The task is on its device, and the seeds are set.

        Returns:
            Whether anything was changed: then the state is kept, and the other processes take it over. By default
            nothing is.
        """
        return False

    @abstractmethod
    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """The terms of the loss of a step; the runner minimises their sum. Called in train mode.

        Args:
            batch: Examples of one process: photos uint8 ``(3, h, w)`` of any size in the memory of the CPU, with boxes
                float32 ``(N, 4)``, xyxy in original pixels. Examples without boxes are a normal case: a batch of them
                gives terms of 0.

        Returns:
            Float scalars by name, weighted already, on the device of the task.
        """

    def parameter_groups(self) -> list[dict[str, object]]:
        """``[{"params": [...], "factor": 1.0}]``: what is learned, with factors on the learning rate.

        By default all parameters that require a gradient, in one group. Parameters of at most one dimension get no
        weight decay, in whatever group they are.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad], "factor": 1.0}]

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Figures on examples that are not learned from, such as ``{"mAP": 0.5}``; more is better.

        Called in eval mode, without gradients, on the first process only, with the averaged weights if there are any.
        """

    def pictures(self) -> dict[str, Tensor]:
        """Pictures for TensorBoard by name, uint8 RGB ``(3, h, w)``, drawn after each validation; none by default."""
        return {}

    @abstractmethod
    def model(self) -> Model:
        """What the run leaves in ``RUN/model``. Called after the last step, in eval mode on the first process."""

    def finish(self, folder: Path) -> None:
        """Called after the model folder was written; for reports. Does nothing by default.

        Args:
            folder: Of the run; the model is in ``folder / "model"``.
        """
        del folder


def build_task(settings: Mapping[str, Any], *, seed: int = 0) -> Task:
    """The task of a config, with first weights that follow from the seed.

    Args:
        settings: The ``task`` part of what :func:`objemb.config.load_training_config` gives.
        seed: Of everything random in it.

    Raises:
        ValueError: Values that the task refuses; a network that the task does not train, whose weights nobody named
            although some are published.
        MissingWeightsError: Weights that are neither on this machine nor downloadable; the message lists all of them.
    """
    expect_weights(settings, registry.load(Task, settings["name"]).learned(settings))
    seed_everything(seed)
    with told_together(settings):
        task = registry.build(Task, settings)
    guard_strided(task)  # whatever networks the task was given
    task.settings = settings
    return task


def expect_identities(examples: Examples) -> None:
    """Raise ``ValueError`` where no example has a box of known identity; the first one that has is enough."""
    for number in range(len(examples)):
        if bool((examples.identities(number) != NO_INSTANCE).any()):
            return
    raise ValueError(
        f"data: expected boxes of known instance that can be used, found none in all {len(examples)} photos"
    )
