"""Which parameters learn, and how fast beside the others."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from objemb import checks
from objemb.detectors.base import NetworkDetector


def by_factor(module: nn.Module, factors: Mapping[str, float], frozen: Collection[str] = ()) -> list[dict[str, Any]]:
    """Parameter groups of the parameters whose factor is not 0.

    Args:
        module: Whose parameters.
        factors: Patterns of names of parameters, and a factor on their learning rate: 0 leaves them as they are. Of
            several patterns that fit the last one counts, where none fits it is 1.
        frozen: Names of parameters that stay as they are, whatever the factors say.

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
    chosen |= dict.fromkeys(frozen, 0.0)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, factor in chosen.items():
        if factor:
            groups.setdefault(factor, []).append(parameters[name])
    if not groups:
        raise ValueError("factors: expected at least one parameter that is trained, found all at 0 or frozen")
    return [{"params": params, "factor": factor} for factor, params in groups.items()]


def below(detector: NetworkDetector, level: str) -> set[str]:
    """Names of the parameters that a level of a detector is computed from, whatever its network is called.

    Args:
        detector: The detector.
        level: One of its levels, such as ``trunk8``.

    Raises:
        ValueError: No such level.
    """
    levels = detector.levels()
    checks.one_of("frozen", level, tuple(levels))
    side = 4 * max(stride for _, stride in levels.values())
    parameters = dict(detector.named_parameters())
    trained = {name: parameter.requires_grad for name, parameter in parameters.items()}
    detector.requires_grad_(True)
    with torch.enable_grad():
        pixels = torch.zeros(1, 3, side, side, device=next(iter(parameters.values())).device)
        seen = detector.features(detector.normalised(pixels))[level].sum()
    gradients = torch.autograd.grad(seen, list(parameters.values()), allow_unused=True)
    for name, parameter in parameters.items():
        parameter.requires_grad_(trained[name])
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
