"""Whether the claims of the paper hold on a set."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from objemb import checks
from objemb.evaluation.analysis.looks import (
    BEST,
    BOXES,
    CLASSIFICATION,
    DETECTION,
    GRID,
    ONE,
    SUM,
    WHOLE,
    Cell,
    mean_over_cells,
)
from objemb.evaluation.paired import Difference, equal_within, paired_difference

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
#: What is better than what.
ATTENTION_CLAIMS = (
    (BOXES, GRID, "Detector boxes as hard attention beat R-MAC"),
    (GRID, WHOLE, "R-MAC beats the whole image"),
)


@dataclass(frozen=True)
class Finding:
    """What a set says about a claim.

    Attributes:
        claim: In words.
        verdict: ``holds``, ``does not hold`` or ``not decided``.
        figures: The differences of mAP that it rests on, by name.
        remark: What else should be known.
    """

    claim: str
    verdict: str
    figures: Mapping[str, Difference]
    remark: str = ""


@dataclass(frozen=True)
class Judge:
    """Verdicts from average precisions per query, averaged over all poolings and dimensions that are compared.

    One side *beats* the other where the interval of their difference lies above 0; the claim does not hold where the
    interval lies below 0 or within the margin. Both are *equal* where the interval lies within the margin, and differ
    where it lies outside of it. All else is not decided.

    Attributes:
        groups: Per query what it shows: queries of the same instance are not independent.
        margin: Difference of mAP, 0 to 1, that counts as none.
        seed: Of the bootstrap.
    """

    groups: Sequence[tuple[str, ...]]
    margin: float
    seed: int

    def __post_init__(self) -> None:
        checks.between("margin", checks.positive("margin", self.margin), 0, 1)

    def networks(self, cells: Sequence[Cell], layers: Mapping[int, str]) -> list[Finding]:
        """Whether classification beats detection at the highest layer and equals it below; layers by rising stride."""
        of_layer = {stride: [c for c in cells if c.stride == stride] for stride in layers}
        gaps = {stride: _gap(found) for stride, found in of_layer.items()}
        found = {stride: self._difference(gap) for stride, gap in gaps.items()}
        *lower, top = layers
        findings = [
            Finding(
                "At the highest layer, classification beats detection",
                self.beats(found[top]),
                {layers[top]: found[top]},
                _wins(of_layer[top]),
            )
        ]
        if lower:
            claim = f"At lower layers, both are equal within {100 * self.margin:g} points of mAP"
            findings.append(Finding(claim, self.equal([found[s] for s in lower]), {layers[s]: found[s] for s in lower}))
            growth = self._difference(gaps[top] - gaps[lower[0]])
            label = f"difference at {layers[top]} less that at {layers[lower[0]]}"
            claim = "Classification gains on detection from the lowest to the highest layer"
            findings.append(Finding(claim, self.beats(growth), {label: growth}))
        return findings

    def attention(self, cells: Sequence[Cell]) -> list[Finding]:
        """Whether boxes beat R-MAC, and R-MAC the whole image, each with both ways of matching."""
        findings = []
        for matching, (better, worse, claim) in itertools.product((BEST, SUM), ATTENTION_CLAIMS):
            arms = [
                [c for c in cells if c.look.kind == k and c.look.matching in (matching, ONE)] for k in (better, worse)
            ]
            if all(arms):
                first, second = map(mean_over_cells, arms)
                difference = self._difference(first - second)
                figures = {f"{better} less {worse}": difference}
                findings.append(Finding(f"{claim}, {matching}", self.beats(difference), figures))
        return findings

    def beats(self, difference: Difference) -> str:
        """The verdict on "the first side is better"."""
        if difference.above:
            return HOLDS
        return FAILS if difference.below or equal_within(difference, self.margin) else OPEN

    def equal(self, differences: Sequence[Difference]) -> str:
        """The verdict on "both sides are equal in all of these"."""
        verdicts = [equal_within(d, self.margin) for d in differences]
        return FAILS if False in verdicts else OPEN if None in verdicts else HOLDS

    def _difference(self, gap: NDArray[np.float64]) -> Difference:
        return paired_difference(gap, np.zeros(len(gap)), self.groups, self.seed)


def _gap(cells: Sequence[Cell]) -> NDArray[np.float64]:
    """By how much classification is better, per query."""
    first, second = (mean_over_cells(c for c in cells if c.network == n) for n in (CLASSIFICATION, DETECTION))
    return first - second


def _wins(cells: Sequence[Cell]) -> str:
    """In how many combinations the one network is better."""
    means = {(c.network, c.look, c.dim): c.mean_precision or 0.0 for c in cells}
    pairs = [(look, dim) for network, look, dim in means if network == CLASSIFICATION]
    better = sum(means[CLASSIFICATION, *pair] > means[DETECTION, *pair] for pair in pairs)
    return f"better in {better} of {len(pairs)} combinations of pooling and dimension"
