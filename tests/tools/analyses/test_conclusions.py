from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from objemb.cli.programs.analyses.conclusions import FAILS, HOLDS, OPEN, Conclusion, SignificanceTest
from objemb.cli.programs.analyses.settings import (
    CLASSIFICATION,
    DETECTION,
    GRID,
    LAYER_SETTINGS,
    WHOLE,
    Score,
    attention_settings,
)
from objemb.cli.programs.analyses.trunks import Layer

QUERIES = 60
TEST = SignificanceTest([(f"object {n // 3}",) for n in range(QUERIES)], margin=0.02, seed=0)
ROWS = {"conv3_2": (3, 8), "conv4_1": (4, 16), "conv4_2": (4, 16), "conv5_1": (5, 32)}
LAYERS = [Layer(name, *row, 64, 0.0) for name, row in ROWS.items()]


def scores(gaps: Sequence[float], noise: float = 1 / 128) -> list[Score]:
    """What adds up without rounding: gaps by layer, and noise whose mean is 0."""
    base, noisy = np.arange(QUERIES) / 64, noise * (-1.0) ** np.arange(QUERIES)
    found = []
    for layer, gap in zip(LAYERS, gaps, strict=True):
        for setting in LAYER_SETTINGS:
            for name, more in ((CLASSIFICATION, gap + noisy), (DETECTION, -noisy)):
                found.append(Score(name, layer.name, setting, 64, base + more))
    return found


def verdicts(conclusions: list[Conclusion]) -> list[str]:
    return [conclusion.verdict for conclusion in conclusions]


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ((0.0, 0.0, 0.0, 0.125), [HOLDS, HOLDS, HOLDS, HOLDS]),
        ((0.0, 0.0, -0.125, -0.125), [FAILS, FAILS, FAILS, FAILS]),
        ((0.0, 0.125, 0.125, 0.125), [HOLDS, HOLDS, FAILS, FAILS]),
        ((0.0, 0.0, 0.0, 0.0), [FAILS, FAILS, HOLDS, FAILS]),
        ((0.25, 0.0, 0.0, 0.125), [HOLDS, HOLDS, HOLDS, HOLDS]),  # conv3 is no part of the sweep
    ],
)
def test_networks(gaps: tuple[float, ...], expected: list[str]) -> None:
    conclusions = TEST.networks(scores(gaps), LAYERS)
    assert verdicts(conclusions) == expected
    assert conclusions[2].claim == "At lower layers (conv4_1 to conv4_2), both are equal within 2 points of mAP"
    assert list(conclusions[2].figures) == ["conv4_1 (stride 16)", "conv4_2 (stride 16)"]
    assert conclusions[0].figures["conv5_1 (stride 32)"].mean == gaps[3]
    (grown,) = conclusions[3].figures.items()
    assert grown[0] == "difference at conv5_1 minus that at conv4_1"
    assert grown[1].mean == gaps[3] - gaps[1]


def test_much_noise_decides_nothing_on_average() -> None:
    conclusions = TEST.networks(scores((0.0, 0.0, 0.0, 0.125), 2.0), LAYERS)
    assert verdicts(conclusions) == [OPEN, HOLDS, OPEN, HOLDS], "but what is counted, and what both layers share"
    assert conclusions[1].remark == "better in 4 of 4 combinations; in 0 of them the interval lies above 0"


def of_top(gaps: dict[tuple[str, int], float]) -> list[Score]:
    """Differences of the highest layer by pooling and dimension; each query has the same."""
    settings = {setting.name: setting for setting in LAYER_SETTINGS}
    base = np.linspace(0, 0.5, QUERIES)
    return [
        Score(network, "conv5_1", settings[pooling], dim, base + more)
        for (pooling, dim), gap in gaps.items()
        for network, more in ((CLASSIFICATION, gap), (DETECTION, 0.0))
    ]


def test_the_best_everywhere_is_counted() -> None:
    """An average of 0.2 does not hide a combination that is worse."""
    gaps = {("MAC", 64): 0.3, ("MAC", 128): 0.4, ("GeM", 64): 0.3, ("GeM", 128): -0.2}
    conclusion = TEST.networks(of_top(gaps), LAYERS[-1:])[1]
    assert conclusion.claim == "At the highest layer, classification is better at every dimension and in every pooling"
    assert conclusion.verdict == FAILS
    assert conclusion.remark == "better in 3 of 4 combinations; in 3 of them the interval lies above 0"
    assert conclusion.figures["least, GeM, 128 dimensions"].mean == pytest.approx(-0.2)
    assert TEST.networks(of_top({**gaps, ("GeM", 128): 1e-9}), LAYERS[-1:])[1].verdict == HOLDS
    assert TEST.networks(of_top({**gaps, ("GeM", 128): 0.0}), LAYERS[-1:])[1].verdict == FAILS
    assert TEST.networks(of_top({**gaps, ("GeM", 128): float("nan")}), LAYERS[-1:])[1].verdict == OPEN


def test_a_single_row_says_nothing_about_lower_ones() -> None:
    conclusions = TEST.networks(scores((0.125, 0.125, 0.125, 0.125)), LAYERS[-1:])
    assert len(conclusions) == 2
    assert len(TEST.networks(scores((0.125, 0.125, 0.125, 0.125)), LAYERS[1:3])) == 2


def attention(figures: dict[tuple[str, str], float]) -> list[Score]:
    settings = attention_settings("max", (GRID, "detector boxes"))
    base = np.linspace(0, 0.5, QUERIES)
    return [Score(CLASSIFICATION, "conv5_1", k, 64, base + figures.get((k.kind, k.matching), 0.0)) for k in settings]


def test_where_to_look() -> None:
    better = {("detector boxes", "best match"): 0.3, (GRID, "best match"): 0.1, (GRID, "sum"): 0.2}
    conclusions = TEST.attention(attention(better))
    assert [(f.claim, f.verdict) for f in conclusions] == [
        ("Detector boxes as hard attention beat R-MAC, best match", HOLDS),
        ("R-MAC beats the whole image, best match", HOLDS),
        ("Detector boxes as hard attention beat R-MAC, sum", FAILS),
        ("R-MAC beats the whole image, sum", HOLDS),
    ]
    assert conclusions[0].figures[f"detector boxes minus {GRID}"].mean == pytest.approx(0.2)
    assert TEST.attention([]) == []
    assert len(TEST.attention([c for c in attention({}) if c.setting.kind in (WHOLE, GRID)])) == 2


def test_few_objects_decide_nothing() -> None:
    test = SignificanceTest([("the only one",)] * QUERIES, margin=0.02, seed=0)
    conclusions = test.networks(scores((0.0, 0.0, 0.0, 0.25)), LAYERS)
    assert verdicts(conclusions) == [OPEN, HOLDS, OPEN, OPEN]


@pytest.mark.parametrize("margin", [0.0, -1.0, 1.5])
def test_margins_that_make_no_sense(margin: float) -> None:
    with pytest.raises(ValueError, match="margin: expected a number"):
        SignificanceTest([], margin, 0)
