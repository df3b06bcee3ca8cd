"""The optimiser of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer

from objemb import checks
from objemb.training.settings import RunSettings


def make_optimizer(groups: Iterable[Mapping[str, Any]], settings: RunSettings) -> Optimizer:
    """An optimiser for groups of parameters.

    Args:
        groups: ``{"params": [...], "factor": f}``; the factor is on the learning rate and 1 by default.
        settings: Which optimiser, with what weight decay and momentum.

    Returns:
        One with up to two groups for each of ``groups``: parameters of more than one dimension with weight decay, the
        others (norms, biases) without. Each group keeps its ``factor`` for :func:`set_learning_rate`.

    Raises:
        ValueError: A parameter is in two groups, a group has other keys, or nothing is to be learned.
    """
    split = [part for group in groups for part in _by_decay(group, settings.weight_decay)]
    if not split:
        raise ValueError("parameter_groups: expected parameters to learn, found none")
    seen: set[int] = set()
    for parameter in (p for group in split for p in group["params"]):
        if id(parameter) in seen:
            raise ValueError(
                f"parameter_groups: expected each parameter once, found one twice {tuple(parameter.shape)}"
            )
        seen.add(id(parameter))
    if settings.optimizer == "adamw":
        return AdamW(split, lr=settings.lr)
    return SGD(split, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of each group to ``rate`` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def _by_decay(group: Mapping[str, Any], decay: float) -> list[dict[str, Any]]:
    unknown = set(group) - {"params", "factor"}
    if unknown:
        raise ValueError(f"parameter_groups: expected the keys 'params' and 'factor', found {checks.listed(unknown)}")
    factor = checks.between("parameter_groups: factor", group.get("factor", 1.0), 0, 1e6)
    parameters: list[torch.nn.Parameter] = [p for p in group["params"] if p.requires_grad]
    parts = (([p for p in parameters if p.ndim > 1], decay), ([p for p in parameters if p.ndim <= 1], 0.0))
    return [{"params": some, "weight_decay": d, "factor": factor} for some, d in parts if some]
