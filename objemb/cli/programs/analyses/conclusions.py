"""Test whether the claims of the paper hold on a set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from objemb import checks
from objemb.cli.programs.analyses.settings import (
    BEST,
    BOXES,
    CLASSIFICATION,
    DETECTION,
    GRID,
    ONE,
    SUM,
    WHOLE,
    Score,
    mean_over_scores,
)
from objemb.cli.programs.analyses.trunks import Layer, sweep
from objemb.evaluation.paired import Difference, equal_within, paired_difference
from objemb.types import Float64Array

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
#: Claims about regions: the better kind, the worse kind, and the claim in words.
ATTENTION_CLAIMS = (
    (BOXES, GRID, "Detector boxes as hard attention beat R-MAC"),
    (GRID, WHOLE, "R-MAC beats the whole image"),
)


@dataclass(frozen=True)
class Conclusion:
    """The verdict on a claim of the paper.

    Attributes:
        claim: The claim in words.
        verdict: ``holds``, ``does not hold`` or ``not decided``.
        figures: The differences of mAP that the verdict is based on, by name.
        remark: Further information; may be empty.
    """

    claim: str
    verdict: str
    figures: Mapping[str, Difference]
    remark: str = ""


@dataclass(frozen=True)
class SignificanceTest:
    """Verdicts from the average precision of each query, averaged over all compared poolings and dimensions.

    One side *beats* the other if the confidence interval of their difference lies above 0; the claim does not hold if
    the interval lies below 0 or within the margin. Both are *equal* if the interval lies within the margin, and differ
    if it lies outside. Otherwise the claim is not decided.

    Attributes:
        groups: The instances of each query; queries of the same instance are resampled together, because they are not
            independent.
        margin: Difference of mAP, 0 to 1, up to which both sides count as equal.
        seed: Seed of the bootstrap.
    """

    groups: Sequence[tuple[str, ...]]
    margin: float
    seed: int

    def __post_init__(self) -> None:
        checks.between("margin", checks.positive("margin", self.margin), 0, 1)

    def networks(self, scores: Sequence[Score], layers: Sequence[Layer]) -> list[Conclusion]:
        """Whether classification beats detection at the highest layer and equals it at lower ones.

        The lower layers are those of the last stage but one, conv4_x of a ResNet: the paper compares conv4_1 to
        conv5_3, and finds both networks equal at the beginning of this range.

        Args:
            scores: The scores of both networks.
            layers: The compared layers, in the order in which they are computed.
        """
        *_, top = layers
        of_layer = {layer: [c for c in scores if c.layer == layer.name] for layer in (*sweep(layers), top)}
        lower = [layer for layer in of_layer if layer.stage != top.stage]
        gaps = {layer: _gap(cells) for layer, cells in of_layer.items()}
        differences = {layer: self._difference(gap) for layer, gap in gaps.items()}
        claim = "At the highest layer, classification beats detection, averaged over poolings and dimensions"
        conclusions = [
            Conclusion(claim, self.beats(differences[top]), {str(top): differences[top]}),
            self._everywhere(of_layer[top]),
        ]
        if lower:
            names = lower[0].name if len(lower) == 1 else f"{lower[0].name} to {lower[-1].name}"
            claim = f"At lower layers ({names}), both are equal within {100 * self.margin:g} points of mAP"
            figures = {str(layer): differences[layer] for layer in lower}
            conclusions.append(Conclusion(claim, self.equal(list(figures.values())), figures))
            growth = self._difference(gaps[top] - gaps[lower[0]])
            label = f"difference at {top.name} minus that at {lower[0].name}"
            claim = "The lead of classification over detection grows from the lowest to the highest layer"
            conclusions.append(Conclusion(claim, self.beats(growth), {label: growth}))
        return conclusions

    def _everywhere(self, scores: Sequence[Score]) -> Conclusion:
        """Whether classification has the higher mAP in every combination of pooling and dimension, as in the paper's
        table. The remark counts the significant differences."""
        by_network = {(c.network, c.setting, c.dim): c for c in scores}
        pairs = {
            f"{setting.name}, {dim} dimensions": (score, by_network[DETECTION, setting, dim])
            for (network, setting, dim), score in by_network.items()
            if network == CLASSIFICATION
        }
        gaps = {name: self._difference(first.precisions - second.precisions) for name, (first, second) in pairs.items()}
        claim = "At the highest layer, classification is better at every dimension and in every pooling"
        if any(math.isnan(gap.mean) for gap in gaps.values()):
            return Conclusion(claim, OPEN, {})
        better = sum(gap.mean > 0 for gap in gaps.values())
        least = min(gaps, key=lambda name: gaps[name].mean)
        sure = sum(gap.above for gap in gaps.values())
        remark = f"better in {better} of {len(gaps)} combinations; in {sure} of them the interval lies above 0"
        return Conclusion(claim, HOLDS if better == len(gaps) else FAILS, {f"least, {least}": gaps[least]}, remark)

    def attention(self, scores: Sequence[Score]) -> list[Conclusion]:
        """Whether boxes beat R-MAC, and R-MAC the whole image, each with both ways of matching."""
        conclusions = []
        for matching, (better, worse, claim) in itertools.product((BEST, SUM), ATTENTION_CLAIMS):
            arms = [
                [c for c in scores if c.setting.kind == k and c.setting.matching in (matching, ONE)]
                for k in (better, worse)
            ]
            if all(arms):
                first, second = map(mean_over_scores, arms)
                difference = self._difference(first - second)
                figures = {f"{better} minus {worse}": difference}
                conclusions.append(Conclusion(f"{claim}, {matching}", self.beats(difference), figures))
        return conclusions

    def beats(self, difference: Difference) -> str:
        """The verdict on "the first side is better"."""
        if difference.above:
            return HOLDS
        return FAILS if difference.below or equal_within(difference, self.margin) else OPEN

    def equal(self, differences: Sequence[Difference]) -> str:
        """The verdict on "both sides are equal in all of these"."""
        verdicts = [equal_within(d, self.margin) for d in differences]
        return FAILS if False in verdicts else OPEN if None in verdicts else HOLDS

    def _difference(self, gap: Float64Array) -> Difference:
        return paired_difference(gap, np.zeros(len(gap)), self.groups, self.seed)


def _gap(scores: Sequence[Score]) -> Float64Array:
    """float64 ``(Q,)``: average precision of classification minus that of detection, averaged over their scores."""
    first, second = (mean_over_scores(c for c in scores if c.network == n) for n in (CLASSIFICATION, DETECTION))
    return first - second
