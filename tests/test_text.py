from __future__ import annotations

import pytest

from objemb.text import score_text


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (1.0, "1.000"),
        (0.8436, "0.844"),
        (12.0, "12.000"),
        (0.0104, "0.010"),
        (0.00999, "0.0100"),
        (0.0012345, "0.0012"),
        (0.000047, "0.000047"),
        (-0.0031, "-0.0031"),
        (0.0, "0.000"),
        (1e-12, "0.000"),
    ],
)
def test_small_scores_keep_two_digits(score: float, text: str) -> None:
    assert score_text(score) == text
