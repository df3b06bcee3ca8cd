"""VLAD, ASMK and their regional forms as the equations have them, one feature, word and region after another.

Jegou et al., CVPR 2010 (VLAD); Tolias, Avrithis and Jegou, IJCV 2016 (ASMK); Teichmann et al., CVPR 2019 (R-VLAD,
R-ASMK). Words are keys of dicts, vectors are lists of floats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Vector = list[float]
Blocks = dict[int, Vector]


def nearest_words(x: Sequence[float], centres: Sequence[Sequence[float]], count: int) -> list[int]:
    """The ``count`` words whose centres are nearest, as far as there are so many."""
    distances = [sum((a - b) ** 2 for a, b in zip(x, c, strict=True)) for c in centres]
    return sorted(range(len(centres)), key=lambda k: (distances[k], k))[:count]


def vlad_blocks(features: Iterable[Sequence[float]], centres: Sequence[Sequence[float]], count: int = 1) -> Blocks:
    """``V_k``, the sum of ``x - c_k`` over the features x that are assigned to k."""
    blocks: Blocks = {}
    for x in features:
        for k in nearest_words(x, centres, count):
            block = blocks.setdefault(k, [0.0] * len(x))
            for d, (a, b) in enumerate(zip(x, centres[k], strict=True)):
                block[d] += float(a) - float(b)
    return blocks


def length(blocks: Blocks) -> float:
    return math.sqrt(sum(v * v for block in blocks.values() for v in block))


def scaled(blocks: Blocks, factor: float) -> Blocks:
    return {k: [v * factor for v in block] for k, block in blocks.items()}


def unit(blocks: Blocks) -> Blocks:
    """The VLAD vector: all blocks together at unit length, zeros where there is nothing."""
    return scaled(blocks, 1 / length(blocks)) if length(blocks) > 0 else blocks


def mean(regions: Sequence[Blocks]) -> Blocks:
    """R-VLAD: the mean over regions, those without features included."""
    total: Blocks = {}
    for blocks in regions:
        for k, block in blocks.items():
            total[k] = [a + b / len(regions) for a, b in zip(total.get(k, [0.0] * len(block)), block, strict=True)]
    return total


def asmk_words(blocks: Blocks, binary: bool) -> Blocks:
    """Each block at unit length; as signs, scaled to unit length, where binary. Blocks of no length are left out."""
    words = {}
    for k, block in blocks.items():
        size = math.sqrt(sum(v * v for v in block))
        if size > 1e-6:
            root = math.sqrt(len(block))
            words[k] = [(1 if v > 0 else -1) / root for v in block] if binary else [v / size for v in block]
    return words


def sigma(u: float, alpha: float, tau: float, inclusive: bool) -> float:
    """``sign(u) |u|^alpha`` above the threshold, else 0."""
    return math.copysign(abs(u) ** alpha, u) if u > tau or (inclusive and u == tau) else 0.0


def kernel(
    first: Blocks,
    second: Blocks,
    *,
    alpha: float = 3.0,
    tau: float = 0.0,
    inclusive: bool = False,
    idf: Sequence[float] | None = None,
    normalised: bool = True,
) -> float:
    """``g(X) g(Y) sum over common words c of idf_c^2 sigma(<u_c, v_c>)`` with ``g(X) = (sum of idf_c^2)^(-1/2)``."""

    def weight(k: int) -> float:
        return 1.0 if idf is None else idf[k] ** 2

    def g(words: Blocks) -> float:
        total = sum(weight(k) for k in words)
        return 1 / math.sqrt(total) if normalised and total > 0 else 1.0

    score = 0.0
    for k in first.keys() & second.keys():
        # signs agree or not: exact, so that a threshold is met exactly
        u = sum(a * b for a, b in zip(first[k], second[k], strict=True))
        score += weight(k) * sigma(u, alpha, tau, inclusive)
    return g(first) * g(second) * score
