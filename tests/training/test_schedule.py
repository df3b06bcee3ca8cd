from __future__ import annotations

import pytest

from objemb.training.schedule import learning_rate
from objemb.training.settings import RunSettings


def test_warm_up_then_cosine() -> None:
    settings = RunSettings(steps=8, batch=1, lr=2.0, warmup=4)
    found = [learning_rate(step, settings) for step in range(9)]
    half = 2**0.5 / 2
    assert found == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 1 + half, 1.0, 1 - half, 0.0])


def test_constant_and_no_warm_up() -> None:
    assert learning_rate(7, RunSettings(steps=8, batch=1, lr=2.0, schedule="constant")) == 2.0
    assert learning_rate(0, RunSettings(steps=8, batch=1, lr=2.0)) == 2.0
    assert learning_rate(3, RunSettings(steps=4, batch=1, lr=2.0, warmup=4)) == 2.0
