from __future__ import annotations

import pytest

from objemb.datasets.protocols import PROTOCOLS, EvaluationProtocol, protocol_named
from objemb.evaluation.metrics import metric_named


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_every_protocol_is_sound(protocol: EvaluationProtocol) -> None:
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


def test_protocols_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="did you mean 'holidays'"):
        protocol_named("holiday")
