"""The learning rate as a function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from objemb.training.settings import RunSettings


def learning_rate(step: int, settings: RunSettings) -> float:
    """The learning rate of step ``step``, from 0.

    With ``W`` steps of warm-up of ``N``: ``lr (step + 1) / W`` before step W, so that the first step already learns;
    after it ``lr (1 + cos(pi (step - W) / (N - W))) / 2`` for ``cosine``, ``lr`` for ``constant``.
    """
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    share = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.lr * (1 + math.cos(math.pi * min(share, 1.0))) / 2
