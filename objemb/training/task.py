"""The contract of a training task, and how one is built from a config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from objemb import registry
from objemb.layers.strided import guard_strided
from objemb.models.model import Model
from objemb.models.origins import expect_weights, missing_together
from objemb.registry import Plugin
from objemb.training.data.base import NO_INSTANCE, Example, Examples
from objemb.training.optimizer import ParameterGroup
from objemb.training.sampler import seed_everything
from objemb.types import Settings


class Task(nn.Module, Plugin, ABC):
    """A training task: data, losses, validation, and the trained model.

    A task is a plug-in: its constructor's arguments are keys of a config, with parts such as ``data`` and ``describer``
    built before it. The runner (:func:`objemb.training.runner.fit`) does the rest: batches, optimiser, precision,
    processes, checkpoints, logs. Trained parameters must be in ``parameters()``, and all state that is needed to resume
    a run in ``state_dict()``; frozen parts, such as a teacher, must be in neither.

    All randomness must come from the global generators (torch, numpy, random): the runner seeds them before each step
    from the seed of the run and the step number, so that a step is the same whether or not the run was interrupted
    before it.

    Attributes:
        examples: The training examples.
        settings: The resolved settings that the task was built from, ``{"name": ..., "data": {...}, ...}``; set by
            :func:`build_task`. Parts of them are the settings of the trained model.
        after: Keys of the settings that affect only what follows the last step, such as a whitening. They may be
            changed after the last step, which repeats only what follows it.
    """

    kind = "training.tasks"
    after: ClassVar[tuple[str, ...]] = ()
    examples: Examples
    settings: Settings

    def __init__(self) -> None:
        super().__init__()
        self.settings = {}

    @staticmethod
    def learned(settings: Mapping[str, object]) -> tuple[str, ...]:
        """Keys of the parts whose networks are trained, such as ``describer.backbone``.

        These may have random initial weights. All other networks need weights in their settings if some are published,
        because they are never trained.

        Args:
            settings: Settings of the task.
        """
        del settings
        return ()

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def check(self) -> None:
        """Called before the first step: raises ``ValueError`` or ``ImportError`` for faults that would otherwise show
        only after the last one. Does nothing by default.
        """

    def begin(self) -> bool:
        """Initialise what is not trained step by step, such as a layer that is fitted in closed form.

        Called in the first process before the first step, but not when a run is resumed. The task is on its device, and
        the seeds are set.

        Returns:
            Whether anything was changed; if so, the state is saved and copied to the other processes. By default
            nothing is changed.
        """
        return False

    @abstractmethod
    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """The terms of the loss of a step; the runner minimises their sum. Called in train mode.

        Args:
            batch: Examples of one process: photos uint8 ``(3, h, w)`` of any size in CPU memory, with boxes float32
                ``(N, 4)``, xyxy in original pixels. Examples without boxes are a normal case; a batch of them has terms
                of 0.

        Returns:
            Weighted float scalars by name, on the device of the task.
        """

    def parameter_groups(self) -> list[ParameterGroup]:
        """``[{"params": [...], "factor": 1.0}]``: the trained parameters, with factors on the learning rate.

        By default one group of all parameters that require a gradient. Parameters of at most one dimension get no
        weight decay in any group.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad], "factor": 1.0}]

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Figures on examples that are not trained on, such as ``{"mAP": 0.5}``; higher is better.

        Called in eval mode, without gradients, in the first process only, with the averaged weights if there are any.
        """

    def pictures(self) -> dict[str, Tensor]:
        """Pictures for TensorBoard by name, uint8 RGB ``(3, h, w)``, drawn after each validation; none by default."""
        return {}

    @abstractmethod
    def model(self) -> Model:
        """The trained model for ``RUN/model``. Called after the last step, in eval mode in the first process."""

    def finish(self, folder: Path) -> None:
        """Called after the model folder was written, to add reports. Does nothing by default.

        Args:
            folder: The run's folder; the model is in ``folder / "model"``.
        """
        del folder


def build_task(settings: Settings, *, seed: int = 0) -> Task:
    """Build the task of a config, with initial weights that depend only on the seed.

    Args:
        settings: The ``task`` part of the result of :func:`objemb.config.load_training_config`.
        seed: Seed of the initial weights.

    Raises:
        ValueError: The task rejects a value, or a network that it does not train has no weights in its settings
            although some are published.
        MissingWeightsError: Weights are neither on this machine nor downloadable; the message lists all of them.
    """
    expect_weights(settings, registry.load(Task, settings["name"]).learned(settings))
    seed_everything(seed)
    with missing_together(settings):
        task = registry.build(Task, settings)
    guard_strided(task)  # for all networks of the task
    task.settings = settings
    return task


def expect_identities(examples: Examples) -> None:
    """Raise ``ValueError`` unless an example has a box of known identity; stops at the first one."""
    for number in range(len(examples)):
        if bool((examples.identities(number) != NO_INSTANCE).any()):
            return
    raise ValueError(f"data: expected boxes of known identity, found none in any of the {len(examples)} photos")
