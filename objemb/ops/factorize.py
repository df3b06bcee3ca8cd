"""Deep feature factorization: feature maps are factorised into concepts, each with a heat map on every feature map.

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
    """The concepts of some feature maps, in descending order of their mass. Concepts of two factorisations do not
    correspond by index.

    Attributes:
        heat: For each map ``(k, h, w)``: the activation of each cell, summed over channels, that a concept explains.
            This fixes the scale that a factorisation leaves open, so that concepts can be compared.
        basis: ``(k, C)``: the channels of each concept; each row sums to 1.
    """

    heat: tuple[Tensor, ...]
    basis: Tensor

    @property
    def mass(self) -> Tensor:
        """Heat ``(k,)`` of each concept on all maps together."""
        return torch.stack([h.sum(dim=(1, 2)) for h in self.heat]).sum(dim=0)

    def strongest(self, number: int) -> int | None:
        """The index of the concept with the largest mass on one of the maps; None if no concept has any."""
        mass = self.heat[number].sum(dim=(1, 2))
        return int(mass.argmax()) if bool((mass > 0).any()) else None


def factorize(sets: Sequence[Sequence[Tensor]], nmf: Nmf) -> list[Concepts]:
    """Concepts of sets of feature maps; the positions of all maps of a set are factorised together.

    Args:
        sets: At least one map ``(C, h, w)`` in each set; sizes may differ, but not C. Negative activations, which the
            networks of the papers do not have, because they end in a ReLU, count as 0.
        nmf: The factorisation.

    Returns:
        The concepts of each set, at most ``nmf.rank``; concepts without heat are left out, so that maps of zeros have
        none.
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
