from __future__ import annotations

import numpy as np
import pytest

from objemb.search.combiners.base import unit
from objemb.search.combiners.classifier import Classifier


@pytest.mark.parametrize("unlike", [0, 3])
def test_it_minimises_the_weighted_squared_error(unlike: int) -> None:
    """The same direction as that of an augmented least-squares problem with a free constant."""
    random = np.random.default_rng(0)
    views, sample = (unit(random.normal(size=(n, 6)).astype(np.float32)) for n in (4, 40))
    counter = unit(random.normal(size=(unlike, 6)).astype(np.float32))
    found = Classifier(strength=0.3).combine(views, counter, lambda: sample)
    groups = [(views, 0.5, 1.0), (sample, 0.25 if unlike else 0.5, 0.0), (counter, 0.25, 0.0)]
    rows = np.concatenate([g for g, _, _ in groups]).astype(np.float64)
    weights = np.concatenate([np.full(len(g), share / max(len(g), 1)) for g, share, _ in groups])
    targets = np.concatenate([np.full(len(g), target) for g, _, target in groups])
    mean = (weights[:, None] * rows).sum(axis=0)
    variance = (weights[:, None] * (rows - mean) ** 2).sum(axis=0).mean()
    design = np.concatenate([rows, np.ones((len(rows), 1))], axis=1) * np.sqrt(weights)[:, None]
    penalty = np.sqrt(0.3 * variance) * np.eye(6, 7)  # none on the constant
    solved = np.linalg.lstsq(
        np.concatenate([design, penalty]), np.concatenate([targets * np.sqrt(weights), np.zeros(6)]), rcond=None
    )[0][:6]
    assert found[0] == pytest.approx(solved / np.linalg.norm(solved), abs=1e-5)


def test_it_looks_away_from_what_all_rows_share() -> None:
    """All vectors point along the first axis; only the second tells the views from the others."""
    sample = unit(np.array([[5, 0, a] for a in np.linspace(-1, 1, 21)], np.float32))
    views = unit(np.array([[5, 1, 0.5], [5, 1, -0.4]], np.float32))
    (direction,) = Classifier(strength=0.01).combine(views, views[:0], lambda: sample)
    assert direction[1] > 0.9
    assert (views @ direction).min() > (sample @ direction).max()


def test_views_that_equal_the_sample() -> None:
    views = np.array([[1, 0, 0], [1, 0, 0]], np.float32)
    found = Classifier().combine(views, views[:0], lambda: views)
    assert np.isfinite(found).all()
