from __future__ import annotations

from typing import Any

import pytest

from objemb.training.optimizer import learning_rate
from objemb.training.settings import RunSettings

REQUIRED = {"steps": 10, "batch": 4, "lr": 0.1}


def test_defaults_and_back() -> None:
    settings = RunSettings.of(REQUIRED)
    assert RunSettings.of(settings.to_json()) == settings
    assert RunSettings.of({**REQUIRED, "precision": 16}).precision == "16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, r"run: unknown key 'stepz' \(did you mean 'steps'\?\)"),
        ({"steps": 0}, "run: steps: expected an integer of 1 or more, found 0"),
        ({"lr": float("nan")}, "run: lr: expected a number above 0"),
        ({"optimizer": "adam"}, r"run: optimizer: expected one of 'adamw', 'sgd', found 'adam' \(did you mean 'adamw'"),
        ({"precision": "64"}, "run: precision: expected one of '32', 'bf16', '16'"),
        ({"warmup": -1}, "run: warmup: expected an integer of 0 or more, found -1"),
        ({"devices": 3}, "run: batch: expected a multiple of the 3 devices, found 4"),
        ({"ema": 1.0}, "run: ema: expected a number from 0 to 0.999999"),
    ],
)
def test_bad_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunSettings.of({**REQUIRED, **change})


def test_missing_keys_are_named() -> None:
    with pytest.raises(ValueError, match="run: expected the keys 'batch', 'lr', which have no default"):
        RunSettings.of({"steps": 3})


def test_a_trial_is_shorter_than_the_warm_up() -> None:
    settings = RunSettings.of({**REQUIRED, "steps": 3, "warmup": 20})
    assert settings.warmup == 3
    assert [learning_rate(step, settings) for step in range(3)] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])
