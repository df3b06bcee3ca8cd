"""Parameter groups, the optimiser and the learning rate schedule."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, NotRequired, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.detectors.capabilities import NetworkDetector, NetworkInput
from objemb.structures import Regions
from objemb.training.settings import RunSettings


class ParameterGroup(TypedDict):
    """Parameters that share a factor on the learning rate, which is 1 by default."""

    params: Iterable[nn.Parameter]
    factor: NotRequired[float]


def groups_by_factor(
    module: nn.Module, factors: Mapping[str, float], frozen: Collection[str] = ()
) -> list[ParameterGroup]:
    """Parameter groups of the parameters whose factor is not 0.

    Args:
        module: The module that has the parameters.
        factors: Patterns of parameter names, each with a factor on the learning rate; 0 freezes the parameters. The
            last matching pattern applies; without one the factor is 1.
        frozen: Names of parameters that are frozen regardless of the factors.

    Returns:
        ``[{"params": [...], "factor": 0.1}, ...]``, see :meth:`objemb.training.task.Task.parameter_groups`.

    Raises:
        ValueError: A pattern matches no parameter, a factor is out of range, or every parameter is frozen.
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
        raise ValueError("factors: expected at least one parameter to train, found all frozen or with factor 0")
    return [{"params": params, "factor": factor} for factor, params in groups.items()]


def parameters_below(detector: NetworkDetector, level: str) -> set[str]:
    """Names of the parameters on which a level of a detector depends, found by tracing its network.

    Args:
        detector: The detector.
        level: One of its levels, such as ``trunk8``.

    Raises:
        ValueError: The detector has no such level.
    """
    checks.one_of("frozen", level, tuple(detector.levels()))
    return _reached(detector, lambda batch, features: features[level].sum())


def parameters_beside_proposals(detector: NetworkDetector) -> set[str]:
    """Names of the parameters on which the proposals of a detector do not depend, such as those of its box head.

    Raises:
        TypeError: Its proposals cannot be trained by themselves.
    """

    def loss(batch: NetworkInput, features: dict[str, Tensor]) -> Tensor:
        (size,) = batch.image_sizes
        target = Regions(torch.tensor([[0.0, 0.0, size[1] / 2, size[0] / 2]]), size)
        return torch.stack(list(detector.proposal_losses(batch, features, [target]).values())).sum()

    return {name for name, _ in detector.named_parameters()} - _reached(detector, loss)


def parameters_beside(backbone: Backbone) -> set[str]:
    """Names of the parameters of a backbone on which its map does not depend: those of other parts of the detector
    whose map it is."""
    detector = backbone.source_detector()
    if backbone.level is None or not isinstance(detector, NetworkDetector):
        return set()
    own = {id(detector.get_parameter(name)) for name in parameters_below(detector, backbone.level)}
    return {name for name, parameter in backbone.named_parameters() if id(parameter) not in own}


def _reached(detector: NetworkDetector, output: Callable[[NetworkInput, dict[str, Tensor]], Tensor]) -> set[str]:
    """Names of the parameters on which a scalar depends that is computed from the maps of a black image."""
    side = 4 * max(stride for _, stride in detector.levels().values())
    parameters = dict(detector.named_parameters())
    trained = {name: parameter.requires_grad for name, parameter in parameters.items()}
    detector.requires_grad_(True)
    device = next(iter(parameters.values())).device
    with torch.enable_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        batch = detector.normalised(torch.zeros(1, 3, side, side, device=device))
        seen = output(batch, detector.features(batch))
    gradients = torch.autograd.grad(seen, list(parameters.values()), allow_unused=True)
    for name, parameter in parameters.items():
        parameter.requires_grad_(trained[name])
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def make_optimizer(groups: Iterable[ParameterGroup], settings: RunSettings) -> Optimizer:
    """An optimiser for groups of parameters.

    Args:
        groups: ``{"params": [...], "factor": f}``; ``factor`` scales the learning rate and is 1 by default.
        settings: Name of the optimiser, weight decay and momentum.

    Returns:
        An optimiser with up to two groups for each of ``groups``: parameters of more than one dimension with weight
        decay, the others (norms, biases) without. Each group keeps its ``factor`` for :func:`set_learning_rate`.

    Raises:
        ValueError: A parameter is in two groups, a group has other keys, or there are no parameters.
    """
    split = [part for group in groups for part in _by_decay(group, settings.weight_decay)]
    if not split:
        raise ValueError("parameter_groups: expected parameters to train, found none")
    seen: set[int] = set()
    for parameter in (p for part in split for p in part.parameters):
        if id(parameter) in seen:
            raise ValueError(
                f"parameter_groups: expected each parameter once, found one twice {tuple(parameter.shape)}"
            )
        seen.add(id(parameter))
    options = [{"params": p.parameters, "weight_decay": p.weight_decay, "factor": p.factor} for p in split]
    if settings.optimizer == "adamw":
        return AdamW(options, lr=settings.lr)
    return SGD(options, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)


def learning_rate(step: int, settings: RunSettings) -> float:
    """The learning rate of a step, counted from 0.

    With ``W`` warm-up steps out of ``N``: ``lr (step + 1) / W`` before step W, so that the rate of the first step is
    not 0; from then on ``lr (1 + cos(pi (step - W) / (N - W))) / 2`` for ``cosine`` and ``lr`` for ``constant``.
    """
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    share = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.lr * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of each group to ``rate`` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


class _Part(NamedTuple):
    parameters: list[nn.Parameter]
    weight_decay: float
    factor: float


def _by_decay(group: ParameterGroup, decay: float) -> list[_Part]:
    unknown = set(group) - {"params", "factor"}
    if unknown:
        raise ValueError(f"parameter_groups: expected the keys 'params' and 'factor', found {checks.listed(unknown)}")
    factor = checks.between("parameter_groups: factor", group.get("factor", 1.0), 0, 1e6)
    parameters = [p for p in group["params"] if p.requires_grad]
    parts = (([p for p in parameters if p.ndim > 1], decay), ([p for p in parameters if p.ndim <= 1], 0.0))
    return [_Part(some, d, factor) for some, d in parts if some]
