from __future__ import annotations

import numpy as np
import pytest
import torch

from objemb.ops.transport import transport
from objemb.rerank.sinkhorn import Sinkhorn
from tests.rerank.test_joint_factorization import search

MINIMAL = {"top": 2, "size": 32, "iterations": 3}
NEEDS_PHOTOS = True


def slowly(cosines: np.ndarray, dustbin: float, temperature: float, iterations: int) -> np.ndarray:
    """Sinkhorn's algorithm as in the books: a positive kernel, scaled until its rows and columns have their masses."""
    n, m = cosines.shape
    kernel = np.full((n + 1, m + 1), dustbin, np.float64)
    kernel[:n, :m] = cosines
    kernel = np.exp(kernel / temperature)
    rows, columns = np.array([1.0] * n + [m]), np.array([1.0] * m + [n])
    across = np.ones(m + 1)
    for _ in range(iterations):
        down = rows / (kernel @ across)
        across = columns / (kernel.T @ down)
    return (down[:, None] * kernel * across)[:n, :m] / max(n, m)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (2, 5), (6, 1)])
def test_against_a_slow_reference(n: int, m: int) -> None:
    cosines = np.random.default_rng(n).uniform(-1, 1, (4, n, m))
    plans = transport(torch.tensor(cosines), 0.2, 0.1, 20)
    for plan, one in zip(plans.numpy(), cosines, strict=True):
        assert np.allclose(plan, slowly(one, 0.2, 0.1, 20), atol=1e-8)
        assert plan.sum() <= min(n, m) / max(n, m) + 1e-3
        assert (plan.sum(axis=0) <= 1 / max(n, m) + 1e-6).all()


def test_same_cells_are_matched_one_to_one_wherever_they_lie() -> None:
    order = torch.tensor([2, 0, 1])
    cosines = torch.eye(3)[order][None]
    plan = transport(cosines, 0.3, 0.02, 50)
    assert torch.allclose(plan[0], torch.eye(3)[order] / 3, atol=5e-3)
    assert float(Sinkhorn(dustbin=0.3, temperature=0.02, iterations=50).similarity(cosines)) == pytest.approx(
        0.7, abs=1e-2
    )


def test_cells_without_a_counterpart_go_to_the_dustbin() -> None:
    cosines = torch.full((1, 4, 4), -0.5)
    assert float(transport(cosines, 0.3, 0.05, 20).sum()) < 1e-5
    assert abs(float(Sinkhorn().similarity(cosines))) < 1e-2


def test_a_cell_is_matched_once() -> None:
    """Many cells that are like the same one: Chamfer counts all of them, the transport one."""
    cosines = torch.zeros(1, 4, 4)
    cosines[0, :, 0] = 1.0
    assert float(transport(cosines, 0.3, 0.05, 50)[0, :, 0].sum()) == pytest.approx(1 / 4, abs=1e-2)


def test_photos_with_the_colour_of_the_box_come_first() -> None:
    after = Sinkhorn(size=24, weight=1.0).rerank(search())
    assert {hit.image for hit in after.results[0].hits[:2]} == {"a", "b"}


def test_settings() -> None:
    for wrong in ({"temperature": 0.0}, {"iterations": 0}, {"dustbin": 2.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
            Sinkhorn(**wrong)
