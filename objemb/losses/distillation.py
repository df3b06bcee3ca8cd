"""Distillation losses between the vectors of a student and those of its teacher.

All of them take vectors of the *same* regions, float ``(N, D)`` of the student and ``(N, D)`` of the teacher, and
weights float ``(N,)`` of at least 0, by default 1: a region of weight 0 counts as absent. They compute in float32, give
the teacher no gradient, and return a float32 scalar; without regions, or without weight, it is a zero that still has a
gradient path, so that a batch without boxes is a training step like any other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb import checks
from objemb.ops.tensors import l2

#: Stands in for a sum of weights or a mean distance of zero where it divides zero.
TINY = 1e-12


def cosine_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """``sum_i w_i (1 - <s_i, t_i>) / sum_i w_i`` of vectors brought to unit length: 0 for equal directions, at most 2.

    For unit vectors this is half of :func:`l2_loss`, for ``|s - t|^2 = 2 - 2 <s, t>``.
    """
    student, teacher, weights = _checked(student, teacher, weights)
    return _mean(1 - (l2(student) * l2(teacher)).sum(dim=1), weights)


def l2_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """``sum_i w_i |s_i - t_i|^2 / sum_i w_i``, of vectors as they are: lengths count.

    The hint of Romero et al., "FitNets: hints for thin deep nets", 2015, on the last layer and without their 1/2.
    """
    student, teacher, weights = _checked(student, teacher, weights)
    return _mean((student - teacher).square().sum(dim=1), weights)


def relational_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Relational loss: how far the student's pairwise distances are from the teacher's, both scaled to mean 1.

    ``sum_{i<j} w_i w_j h(d_ij / mean(d) - e_ij / mean(e)) / sum_{i<j} w_i w_j`` with the Euclidean distances
    ``d_ij = |s_i - s_j|`` and ``e_ij = |t_i - t_j|``, means over the pairs weighted alike, and Huber's
    ``h(x) = x^2 / 2`` where ``|x| < 1``, else ``|x| - 1 / 2``. The distance-wise loss of Park et al., "Relational
    knowledge distillation", 2019. Fewer than two regions have no distances and cost nothing.
    """
    student, teacher, weights = _checked(student, teacher, weights)
    first, second = torch.triu_indices(len(weights), len(weights), 1, device=weights.device)
    pairs = weights[first] * weights[second]
    of_student, of_teacher = (_distances(vectors)[first, second] for vectors in (student, teacher))
    of_student, of_teacher = (
        distances / _mean(distances, pairs).clamp_min(TINY) for distances in (of_student, of_teacher)
    )
    return _mean(F.smooth_l1_loss(of_student, of_teacher, reduction="none"), pairs)


def _distances(vectors: Tensor) -> Tensor:
    """Euclidean ``(N, N)``, each from differences: by way of inner products, small ones would be rounding.

    The gradient of a distance of zero is zero. (``pdist`` would give the pairs alone, but its gradient crashes the
    process when there are no vectors.)
    """
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum() / weights.sum().clamp_min(TINY)


def _checked(student: Tensor, teacher: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """All three in float32, the teacher and the weights without gradient."""
    checks.shape("student", student, (None, None))
    checks.shape("teacher", teacher, tuple(student.shape))
    weights = student.new_ones(len(student)) if weights is None else weights
    checks.shape("weights", weights, (len(student),))
    return student.float(), teacher.detach().float(), weights.detach().float()
