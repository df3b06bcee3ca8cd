"""From a training config to a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from objemb import registry
from objemb.layers.strided import guard_strided
from objemb.models.origins import expect_weights, told_together
from objemb.training.run import seed_everything
from objemb.training.task import Task

TASKS = "training.tasks"


def build_task(settings: Mapping[str, Any], *, seed: int = 0) -> Task:
    """The task of a config, with first weights that follow from the seed.

    Args:
        settings: The ``task`` part of what :func:`objemb.config.load_training_config` gives.
        seed: Of everything random in it.

    Raises:
        ValueError: Unknown keys or values; a network that the task does not train, whose weights nobody named although
            some are published.
        MissingWeightsError: Weights that are neither on this machine nor to be had; all of them are told.
    """
    kind: type[Task] = registry.load(TASKS, settings["name"])
    expect_weights(settings, kind.learned(settings))
    seed_everything(seed)
    with told_together(settings):
        task: Task = registry.build(TASKS, settings)
    guard_strided(task)  # whatever networks the task was given
    task.settings = settings
    return task
