from __future__ import annotations

import numpy as np
import pytest

from objemb.evaluation.protocols import PROTOCOLS, Protocol, metric_named, protocol_named, scored

RANKS = [np.array([0, 2, 5]), np.array([1])]


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_every_protocol_is_sound(protocol: Protocol) -> None:
    assert protocol.main_setup in protocol.setups
    assert len({s.name for s in protocol.setups}) == len(protocol.setups)
    assert protocol.main_figure.split()[0] == protocol.metrics[0]
    for metric in protocol.metrics:
        if metric != "GAP":
            assert metric_named(metric)([0], 1) > 0
    for setup in protocol.setups:
        assert set(setup.positive) | set(setup.junk) <= set(protocol.grades)
        assert not set(setup.positive) & set(setup.junk)


def test_setups_of_the_revisited_benchmarks() -> None:
    """methods.md 10.3"""
    revisited = protocol_named("revisited")
    assert {s.name: (set(s.positive), set(s.junk)) for s in revisited.setups} == {
        "easy": ({"easy"}, {"junk", "hard"}),
        "medium": ({"easy", "hard"}, {"junk"}),
        "hard": ({"hard"}, {"junk", "easy"}),
    }
    assert (revisited.graded, revisited.main_figure) == (True, "mAP medium")
    assert protocol_named("instances").graded is False


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mAP", (0.677778 + 0.25) / 2),  # methods.md 10.1
        ("mAP@2", (1 / 2 + 1 / 2) / 2),
        ("P@2", (1 / 2 + 1 / 2) / 2),
        ("mP@10", (3 / 6 + 1 / 2) / 2),
        ("R@1", 1 / 2),
        ("N-S", (2 + 1) / 2),
    ],
)
def test_figures_by_name(name: str, expected: float) -> None:
    assert scored(name, RANKS, [3, 1]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["AP", "P@0", "mP", "R@x", "GAP"])
def test_figures_that_there_are_not(name: str) -> None:
    with pytest.raises(ValueError, match="figure: expected mAP, N-S, or mAP, P, mP or R with @k, found"):
        metric_named(name)


def test_protocols_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="did you mean 'holidays'"):
        protocol_named("holiday")
