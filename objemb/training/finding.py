"""How well a detector finds the objects of examples."""

from __future__ import annotations

import torch

from objemb.detectors.base import NetworkDetector
from objemb.evaluation.average_precision import average_precision
from objemb.training.data.base import Examples


def counts_classes(detector: NetworkDetector, examples: Examples) -> bool:
    """Whether labels count: the detector tells classes apart, and they are those of the examples."""
    return detector.num_classes > 1 and tuple(detector.classes) == tuple(examples.classes)


@torch.no_grad()
def find(detector: NetworkDetector, examples: Examples) -> dict[str, float]:
    """The figures of :func:`~objemb.evaluation.average_precision.average_precision`; none without labelled boxes."""
    if not examples.classes:
        return {}
    found, truth = [], []
    for number in range(len(examples)):
        example = examples[number]
        found += detector.detect([example.photo])
        truth.append(example.regions)
    return average_precision(found, truth, class_agnostic=not counts_classes(detector, examples))
