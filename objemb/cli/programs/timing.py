"""Comparison of running times: all variants run in turn, round after round; ratios are taken within a round."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Ratio:
    """One line of the report.

    Attributes:
        name: The quantities that are compared.
        value: The ratio, a median over rounds.
        wanted: The target, such as ``">= 3"``; empty if there is none.
        low: Smallest ratio of any round.
        high: Largest ratio of any round.
        facts: Further numbers for the report: times, sizes, recall.
    """

    name: str
    value: float
    wanted: str = ""
    low: float | None = None
    high: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool | None:
        """Whether the ratio meets its target; None without a target."""
        if not self.wanted:
            return None
        relation, number = self.wanted.split()
        return self.value >= float(number) if relation == ">=" else self.value <= float(number)


def alternate(sides: Mapping[T, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[T, list[float]]:
    """Seconds of each variant in each round. They alternate, so that other load on the machine affects all alike."""
    times: dict[T, list[float]] = {name: [] for name in sides}
    for number in range(warm_up + rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if number >= warm_up:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(name: str, above: Sequence[float], below: Sequence[float], wanted: str = "", **facts: object) -> Ratio:
    """``above / below`` from times of the same rounds, with the median seconds of both as facts."""
    rounds = [a / b for a, b in zip(above, below, strict=True)]
    seconds = {"seconds_above": median(above), "seconds_below": median(below), "rounds": len(rounds)}
    return Ratio(name, median(rounds), wanted, min(rounds), max(rounds), {**seconds, **facts})
