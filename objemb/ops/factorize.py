"""Deep feature factorization: feature maps fall apart into concepts, each with a heat map on every map.

Collins, Achanta and Susstrunk, "Deep feature factorization for concept discovery", ECCV 2018; for retrieval and
localisation Collins and Susstrunk, "Deep feature factorization for content-based image retrieval and localization",
ICIP 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from objemb import checks
from objemb.ops.nmf import Nmf


@dataclass(frozen=True, eq=False)
class Concepts:
    """What some feature maps have in common, strongest first. Concepts of two factorisations must not be compared by
    number: their order is that of their mass.

    Attributes:
        heat: Per map ``(k, h, w)``: how much of the activation of each cell, summed over the channels, a concept
            explains. This fixes the scale that a factorisation leaves open, so that concepts compare.
        basis: ``(k, C)``: the channels of each concept; each row sums up to 1.
    """

    heat: tuple[Tensor, ...]
    basis: Tensor

    @property
    def mass(self) -> Tensor:
        """Heat ``(k,)`` of each concept on all maps together."""
        return torch.stack([h.sum(dim=(1, 2)) for h in self.heat]).sum(dim=0)

    def strongest(self, number: int) -> int | None:
        """The concept with the largest mass on one of the maps; None where no concept has any."""
        mass = self.heat[number].sum(dim=(1, 2))
        return int(mass.argmax()) if bool((mass > 0).any()) else None


def factorize(sets: Sequence[Sequence[Tensor]], nmf: Nmf) -> list[Concepts]:
    """Concepts of sets of feature maps; the positions of all maps of a set are factorised together.

    Args:
        sets: At least one map ``(C, h, w)`` in each; sizes may differ, C not. Negative activations count as 0: the
            networks of the papers end in a ReLU and have none.
        nmf: How to factorise.

    Returns:
        For each set its concepts: at most ``nmf.rank``; those without any heat are left out, so that maps of zeros have
        none at all.
    """
    matrices = [torch.cat([m.clamp_min(0).flatten(1).T for m in checks.several("maps", maps)]) for maps in sets]
    return [
        _concepts(maps, factors.weights, factors.basis) for maps, factors in zip(sets, nmf.fit(matrices), strict=True)
    ]


def _concepts(maps: Sequence[Tensor], weights: Tensor, basis: Tensor) -> Concepts:
    size = basis.sum(dim=1)
    mass = weights.sum(dim=0) * size
    order = mass.argsort(descending=True, stable=True)
    order = order[mass[order] > 0]
    heat = (weights * size)[:, order].T.split([m.shape[1] * m.shape[2] for m in maps], dim=1)
    shaped = tuple(h.unflatten(1, m.shape[1:]) for h, m in zip(heat, maps, strict=True))
    return Concepts(shaped, basis[order] / size[order, None])
