"""Which parameters learn, and how fast beside the others."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from torch import nn

from objemb import checks


def by_factor(module: nn.Module, factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameter groups of the parameters whose factor is not 0.

    Args:
        module: Whose parameters.
        factors: Patterns of names of parameters, and a factor on their learning rate: 0 leaves them as they are. Of
            several patterns that fit the last one counts, where none fits it is 1.

    Returns:
        ``[{"params": [...], "factor": 0.1}, ...]``, see :meth:`objemb.training.task.Task.parameter_groups`.

    Raises:
        ValueError: A pattern without a parameter, factors out of range, or nothing that is trained.
    """
    parameters = dict(module.named_parameters())
    chosen = dict.fromkeys(parameters, 1.0)
    for pattern, factor in factors.items():
        fitting = fnmatch.filter(parameters, pattern)
        if not fitting:
            known = sorted({".".join(name.split(".")[:3]) for name in parameters})
            raise ValueError(f"factors: expected patterns of {checks.listed(known)} ..., found {pattern!r}")
        chosen |= dict.fromkeys(fitting, float(checks.between(f"factors[{pattern!r}]", factor, 0, 1e6)))
    groups: dict[float, list[nn.Parameter]] = {}
    for name, factor in chosen.items():
        if factor:
            groups.setdefault(factor, []).append(parameters[name])
    if not groups:
        raise ValueError("factors: expected at least one parameter that is trained, found all at 0")
    return [{"params": params, "factor": factor} for factor, params in groups.items()]
