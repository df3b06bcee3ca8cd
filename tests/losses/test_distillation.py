from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from objemb.losses.distillation import cosine_loss, l2_loss, relational_loss

Loss = Callable[..., Tensor]
every = pytest.mark.parametrize("loss", [cosine_loss, l2_loss, relational_loss])


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


def some(count: int, dim: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_cosine_by_hand() -> None:
    student, teacher = rows((3, 0), (0, 1), (1, 1)), rows((1, 0), (0, -2), (1, 0))
    half = 0.5**0.5
    assert cosine_loss(student, teacher).item() == pytest.approx((0 + 2 + 1 - half) / 3)
    weighted = cosine_loss(student, teacher, torch.tensor([1.0, 0.0, 3.0]))
    assert weighted.item() == pytest.approx(3 * (1 - half) / 4)


def test_gradient_of_cosine_by_hand() -> None:
    # of -<s / |s|, t> it is -(t - <s/|s|, t> s/|s|) / |s|: for s = (2, 0) and t = (0, 1), (0, -1/2)
    student = rows((2, 0), (1, 0))
    cosine_loss(student, torch.tensor([[0.0, 1.0], [1.0, 0.0]])).backward()
    assert torch.allclose(student.grad, torch.tensor([[0.0, -0.25], [0.0, 0.0]]), atol=1e-7)


def test_l2_by_hand() -> None:
    student, teacher = rows((3, 0), (0, 1)), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert l2_loss(student, teacher).item() == pytest.approx(2.5)
    loss = l2_loss(student, teacher, torch.tensor([3.0, 1.0]))
    assert loss.item() == pytest.approx(15 / 4)
    loss.backward()
    assert torch.allclose(student.grad, torch.tensor([[3.0, -1.5], [0.0, 0.0]]))


def test_cosine_of_unit_vectors_is_half_of_l2() -> None:
    student, teacher = (torch.nn.functional.normalize(some(5, seed=s)) for s in (0, 1))
    assert cosine_loss(student, teacher).item() == pytest.approx(l2_loss(student, teacher).item() / 2, rel=1e-5)


def test_relational_by_hand() -> None:
    # distances 3, 4, 5 with mean 4 against 2, 2, 2 sqrt 2 with mean m
    student, teacher = rows((0, 0), (3, 0), (0, 4)), torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    m = (4 + 8**0.5) / 3
    terms = [(a / 4 - b / m) ** 2 / 2 for a, b in ((3, 2), (4, 2), (5, 8**0.5))]
    assert relational_loss(student, teacher).item() == pytest.approx(sum(terms) / 3, rel=1e-5)


def test_relational_weights_by_hand() -> None:
    # pairs (0, 1), (0, 2), (1, 2) weigh 2, 3, 6
    student, teacher = rows((0, 0), (3, 0), (0, 4)), torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    d, e = (2 * 3 + 3 * 4 + 6 * 5) / 11, (2 * 2 + 3 * 2 + 6 * 8**0.5) / 11
    terms = [w * (a / d - b / e) ** 2 / 2 for w, a, b in ((2, 3, 2), (3, 4, 2), (6, 5, 8**0.5))]
    found = relational_loss(student, teacher, torch.tensor([1.0, 2.0, 3.0]))
    assert found.item() == pytest.approx(sum(terms) / 11, rel=1e-5)


def test_relational_far_off_is_linear() -> None:
    # on a line: distances 1, 9, 10 against 9, 1, 10 over 20 / 3: differences 1.2, 1.2 and 0
    student, teacher = rows((0, 0), (1, 0), (10, 0)), torch.tensor([[0.0, 0.0], [9.0, 0.0], [10.0, 0.0]])
    assert relational_loss(student, teacher).item() == pytest.approx(2 * (1.2 - 0.5) / 3, rel=1e-5)


def test_relational_does_not_mind_size_position_and_rotation() -> None:
    teacher = some(6)
    turn = torch.linalg.qr(some(4, seed=1)).Q
    assert relational_loss(3 * teacher @ turn + 1, teacher).item() == pytest.approx(0, abs=1e-9)
    assert relational_loss(some(6, seed=2), teacher).item() > 0.01


def test_gradient_of_relational_is_that_of_differences() -> None:
    student, teacher = some(4).requires_grad_(), some(4, seed=1)
    relational_loss(student, teacher).backward()
    step = 1e-2
    for i, j in ((0, 0), (2, 3)):
        moved = torch.zeros(4, 4)
        moved[i, j] = step
        ahead, behind = (relational_loss(student.detach() + s * moved, teacher).item() for s in (1, -1))
        assert student.grad[i, j].item() == pytest.approx((ahead - behind) / (2 * step), abs=1e-3)


@every
def test_no_loss_between_equal_vectors(loss: Loss) -> None:
    student = some(4).requires_grad_()
    found = loss(student, student.detach())
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.abs().max() < 1e-6


@every
def test_without_regions_a_zero_with_a_gradient_path(loss: Loss) -> None:
    weights = torch.nn.Parameter(some(4))
    for count, weight in ((0, None), (3, torch.zeros(3)), *([(1, None)] if loss is relational_loss else [])):
        weights.grad = None
        found = loss(some(count) @ weights, some(count, seed=1), weight)
        assert found.shape == ()
        assert found.item() == 0
        found.backward()
        assert torch.equal(weights.grad, torch.zeros(4, 4))


@every
def test_a_region_of_weight_0_counts_as_absent(loss: Loss) -> None:
    student, teacher = some(5).requires_grad_(), some(5, seed=1)
    found = loss(student, teacher, torch.tensor([1.0, 2.0, 0.5, 0.0, 0.0]))
    assert found.item() == pytest.approx(loss(student[:3], teacher[:3], torch.tensor([1.0, 2.0, 0.5])).item(), rel=1e-5)
    found.backward()
    assert not student.grad[3:].any()


@every
def test_only_the_ratio_of_weights_counts(loss: Loss) -> None:
    student, teacher = some(5), some(5, seed=1)
    assert loss(student, teacher, torch.full((5,), 7.0)).item() == pytest.approx(loss(student, teacher).item(), 1e-5)


@every
def test_the_teacher_is_frozen(loss: Loss) -> None:
    student, teacher = some(3).requires_grad_(), some(3, seed=1).requires_grad_()
    loss(student, teacher).backward()
    assert student.grad.any()
    assert teacher.grad is None


@every
def test_collapsed_and_zero_vectors_have_finite_gradients(loss: Loss) -> None:
    for value in (0.0, 1.0):
        student = torch.full((3, 4), value, requires_grad=True)
        found = loss(student, some(3))
        found.backward()
        assert found.isfinite()
        assert student.grad.isfinite().all()
        assert loss(some(3), torch.full((3, 4), value)).isfinite(), "a teacher to whom all look alike"


@every
def test_half_precision_is_computed_in_float32(loss: Loss) -> None:
    student, teacher = some(3).half().requires_grad_(), some(3, seed=1).half()
    found = loss(student, teacher)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(loss(student.float(), teacher.float()).item())


@every
def test_shapes_that_differ_are_named(loss: Loss) -> None:
    with pytest.raises(ValueError, match=r"teacher: expected shape \(3, 4\), found \(2, 4\)"):
        loss(some(3), some(2))
    with pytest.raises(ValueError, match=r"student: expected shape \(any, any\), found \(4,\)"):
        loss(some(1)[0], some(1)[0])
    with pytest.raises(ValueError, match=r"weights: expected shape \(3\), found \(3, 1\)"):
        loss(some(3), some(3), torch.ones(3, 1))
