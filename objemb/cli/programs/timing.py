"""Fair comparison of times: all sides in turn, round after round, and ratios within a round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """One line of the report.

    Attributes:
        name: What is compared.
        value: The ratio, a median over rounds.
        wanted: What it should be, such as ``">= 3"``; empty where nothing is asked.
        low: Smallest ratio of any round.
        high: Largest ratio of any round.
        facts: Whatever else should be known: times, sizes, recall.
    """

    name: str
    value: float
    wanted: str = ""
    low: float | None = None
    high: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool | None:
        """Whether it is as wanted; None where nothing is asked."""
        if not self.wanted:
            return None
        relation, number = self.wanted.split()
        return self.value >= float(number) if relation == ">=" else self.value <= float(number)


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each side in each round. Sides alternate, so that whatever else the machine does hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in sides}
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
