from __future__ import annotations

import numpy as np
import pytest

from objemb.evaluation.analysis.claims import FAILS, HOLDS, OPEN, Finding, Judge
from objemb.evaluation.analysis.looks import (
    CLASSIFICATION,
    DETECTION,
    GRID,
    LAYER_LOOKS,
    WHOLE,
    Cell,
    attention_looks,
)

QUERIES = 60
JUDGE = Judge([(f"object {n // 3}",) for n in range(QUERIES)], margin=0.02, seed=0)
LAYERS = {8: "layer2 (stride 8)", 16: "layer3 (stride 16)", 32: "layer4 (stride 32)"}


def cells(gaps: dict[int, float], noise: float = 0.01) -> list[Cell]:
    random = np.random.default_rng(0)
    found = []
    for stride, gap in gaps.items():
        for look in LAYER_LOOKS:
            base = random.random(QUERIES)
            for name, more in ((CLASSIFICATION, gap), (DETECTION, 0.0)):
                found.append(Cell(name, stride, look, 64, base + more + noise * random.standard_normal(QUERIES)))
    return found


def verdicts(findings: list[Finding]) -> list[str]:
    return [finding.verdict for finding in findings]


@pytest.mark.parametrize(
    ("gaps", "noise", "expected"),
    [
        ({8: 0.0, 16: 0.0, 32: 0.1}, 0.01, [HOLDS, HOLDS, HOLDS]),
        ({8: 0.0, 16: -0.1, 32: -0.1}, 0.01, [FAILS, FAILS, FAILS]),
        ({8: 0.1, 16: 0.1, 32: 0.1}, 0.01, [HOLDS, FAILS, FAILS]),
        ({8: 0.0, 16: 0.0, 32: 0.0}, 0.01, [FAILS, HOLDS, FAILS]),
        ({8: 0.0, 16: 0.0, 32: 0.0}, 2.0, [OPEN, OPEN, OPEN]),
    ],
)
def test_networks(gaps: dict[int, float], noise: float, expected: list[str]) -> None:
    findings = JUDGE.networks(cells(gaps, noise), LAYERS)
    assert verdicts(findings) == expected
    assert list(findings[1].figures) == ["layer2 (stride 8)", "layer3 (stride 16)"]
    if noise < 1:
        assert findings[0].figures["layer4 (stride 32)"].mean == pytest.approx(gaps[32], abs=0.01)


def test_wins_are_counted() -> None:
    assert JUDGE.networks(cells({32: 0.1}), {32: "layer4"})[0].remark == (
        "better in 4 of 4 combinations of pooling and dimension"
    )


def test_a_single_layer_says_nothing_about_lower_ones() -> None:
    assert len(JUDGE.networks(cells({32: 0.1}), {32: "layer4"})) == 1


def attention(figures: dict[tuple[str, str], float]) -> list[Cell]:
    looks = attention_looks("max", (GRID, "detector boxes"))
    base = np.linspace(0, 0.5, QUERIES)
    return [Cell(CLASSIFICATION, 32, k, 64, base + figures.get((k.kind, k.matching), 0.0)) for k in looks]


def test_where_to_look() -> None:
    better = {("detector boxes", "best match"): 0.3, (GRID, "best match"): 0.1, (GRID, "sum"): 0.2}
    findings = JUDGE.attention(attention(better))
    assert [(f.claim, f.verdict) for f in findings] == [
        ("Detector boxes as hard attention beat R-MAC, best match", HOLDS),
        ("R-MAC beats the whole image, best match", HOLDS),
        ("Detector boxes as hard attention beat R-MAC, sum", FAILS),
        ("R-MAC beats the whole image, sum", HOLDS),
    ]
    assert findings[0].figures[f"detector boxes less {GRID}"].mean == pytest.approx(0.2)
    assert JUDGE.attention([]) == []
    assert len(JUDGE.attention([c for c in attention({}) if c.look.kind in (WHOLE, GRID)])) == 2


def test_few_objects_decide_nothing() -> None:
    judge = Judge([("the only one",)] * QUERIES, margin=0.02, seed=0)
    assert verdicts(judge.networks(cells({8: 0.0, 32: 0.3}), {8: "a", 32: "b"})) == [OPEN, OPEN, OPEN]


@pytest.mark.parametrize("margin", [0.0, -1.0, 1.5])
def test_margins_that_make_no_sense(margin: float) -> None:
    with pytest.raises(ValueError, match="margin: expected a number"):
        Judge([], margin, 0)
