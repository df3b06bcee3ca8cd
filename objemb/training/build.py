"""From a training config to a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from objemb import registry
from objemb.ops.strided import guard_strided
from objemb.training.run import seed_everything
from objemb.training.task import Task


def build_task(settings: Mapping[str, Any], *, seed: int = 0) -> Task:
    """The task of a config, with first weights that follow from the seed.

    Args:
        settings: The ``task`` part of what :func:`objemb.config.load_training_config` gives.
        seed: Of everything random in it.

    Raises:
        ValueError: Unknown keys or values.
    """
    seed_everything(seed)
    task: Task = registry.build("training.tasks", settings)
    guard_strided(task)  # whatever networks the task was given
    task.settings = settings
    return task
