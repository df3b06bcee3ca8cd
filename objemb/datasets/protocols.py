"""Evaluation protocols of benchmarks: which images are relevant, and which metrics are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from objemb import checks

#: The grade of images that show the query's instance, in a set without lists of relevant images.
POSITIVE = "positive"
#: The grade of images that are left out of the ranking.
JUNK = "junk"
#: Metrics that are not between 0 and 1, with their maximum.
NO_SHARES = {"N-S": 4}


@dataclass(frozen=True)
class Setup:
    """An interpretation of the grades of a query's images.

    Attributes:
        name: Suffix of the names of metrics; empty if a protocol has only one setup.
        positive: The grades of positives.
        junk: The grades that are left out of the ranking. All other images are negatives.
    """

    name: str
    positive: tuple[str, ...]
    junk: tuple[str, ...] = (JUNK,)


@dataclass(frozen=True)
class EvaluationProtocol:
    """The evaluation protocol of a benchmark.

    Attributes:
        name: Its name in evaluation sets.
        setups: At least one setup.
        metrics: Names of metrics of :func:`objemb.evaluation.metrics.metric_named`, and ``GAP``; the first is the main
            metric of the benchmark.
        own_photo_is_junk: Whether items from the query's own photo are left out of the ranking. Otherwise they count
            like any other.
        main: The setup that is used for single queries.
    """

    name: str
    setups: tuple[Setup, ...]
    metrics: tuple[str, ...]
    own_photo_is_junk: bool = True
    main: str = ""

    @property
    def grades(self) -> tuple[str, ...]:
        """All grades, in the order of their first mention."""
        return tuple(dict.fromkeys(g for setup in self.setups for g in (*setup.positive, *setup.junk)))

    @property
    def graded(self) -> bool:
        """Whether queries need lists of relevant images, because grades do not follow from instances."""
        return POSITIVE not in self.grades

    @property
    def main_setup(self) -> Setup:
        """The setup called :attr:`main`."""
        return next(setup for setup in self.setups if setup.name == self.main)

    @property
    def main_figure(self) -> str:
        """The main figure of the benchmark, such as ``mAP`` or ``mAP medium``."""
        return figure(self.metrics[0], self.main_setup)


def figure(metric: str, setup: Setup) -> str:
    """The name of a metric under a setup."""
    return f"{metric} {setup.name}".strip()


_BY_INSTANCE = (Setup("", (POSITIVE,)),)
_REVISITED = (
    Setup("easy", ("easy",), (JUNK, "hard")),
    Setup("medium", ("easy", "hard")),
    Setup("hard", ("hard",), (JUNK, "easy")),
)

#: Protocols by their name in the key ``protocol`` of evaluation sets.
PROTOCOLS: Mapping[str, EvaluationProtocol] = {
    protocol.name: protocol
    for protocol in (
        EvaluationProtocol("instances", _BY_INSTANCE, ("mAP", "P@1", "P@5", "mP@5", "mP@10")),
        # Philbin et al., CVPR 2007 and 2008: the query's photo is in the database, and counts
        EvaluationProtocol(
            "oxford", (Setup("", ("good", "ok")),), ("mAP", "mP@1", "mP@5", "mP@10"), own_photo_is_junk=False
        ),
        # Radenovic et al., CVPR 2018
        EvaluationProtocol("revisited", _REVISITED, ("mAP", "mP@1", "mP@5", "mP@10"), main="medium"),
        # Jegou et al., ECCV 2008: every photo of a group but the first is to be found by the first
        EvaluationProtocol("holidays", _BY_INSTANCE, ("mAP", "P@1")),
        # Nister and Stewenius, CVPR 2006: all four photos of an object, the query's own among them
        EvaluationProtocol("ukbench", _BY_INSTANCE, ("N-S", "mAP"), own_photo_is_junk=False),
        # Wang and Jiang, TOMM 2015; queries are parts of photos that are not in the database
        EvaluationProtocol("instre", _BY_INSTANCE, ("mAP", "P@1", "mP@10")),
        # Song et al., CVPR 2016
        EvaluationProtocol("recall", _BY_INSTANCE, ("R@1", "R@10", "R@100", "R@1000")),
        # Weyand et al., CVPR 2020: retrieval, and recognition by the landmark of the best image
        EvaluationProtocol("landmarks", _BY_INSTANCE, ("mAP@100",)),
        EvaluationProtocol("recognition", _BY_INSTANCE, ("GAP",)),
    )
}
INSTANCES = PROTOCOLS["instances"]


def protocol_named(name: str) -> EvaluationProtocol:
    """A protocol by its name. Raises ``ValueError`` with the known ones."""
    return PROTOCOLS[checks.one_of("protocol", name, tuple(PROTOCOLS))]
