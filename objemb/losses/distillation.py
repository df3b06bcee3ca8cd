"""Distillation losses between the vectors of a student and those of its teacher.

All of them take vectors of the *same* regions, float ``(N, D)`` of the student and ``(N, D)`` of the teacher, and
non-negative weights, float ``(N,)``, by default 1: a region with weight 0 is ignored. They compute in float32, have no
gradient in the teacher, and return a float32 scalar. Without regions, or if all weights are 0, it is a differentiable
zero, so that batches without boxes need no special treatment in training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb import checks
from objemb.ops.tensors import l2

#: Replaces a sum of weights or a mean distance of zero in a division of zero.
TINY = 1e-12


def cosine_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """``sum_i w_i (1 - <s_i, t_i>) / sum_i w_i`` of normalised vectors: 0 for equal directions, at most 2.

    For unit vectors this is half of :func:`l2_loss`, because ``|s - t|^2 = 2 - 2 <s, t>``.
    """
    student, teacher, weights = _checked(student, teacher, weights)
    return _mean(1 - (l2(student) * l2(teacher)).sum(dim=1), weights)


def l2_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """``sum_i w_i |s_i - t_i|^2 / sum_i w_i``, of vectors that are not normalised.

    The hint loss of Romero et al., "FitNets: hints for thin deep nets", 2015, on the last layer and without the factor
    1/2.
    """
    student, teacher, weights = _checked(student, teacher, weights)
    return _mean((student - teacher).square().sum(dim=1), weights)


def relational_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Relational loss: the difference between the pairwise distances of student and teacher, both scaled to mean 1.

    ``sum_{i<j} w_i w_j h(d_ij / mean(d) - e_ij / mean(e)) / sum_{i<j} w_i w_j`` with the Euclidean distances
    ``d_ij = |s_i - s_j|`` and ``e_ij = |t_i - t_j|``, means over pairs with the same weights ``w_i w_j``, and the Huber
    loss ``h(x) = x^2 / 2`` for ``|x| < 1``, otherwise ``|x| - 1 / 2``. The distance-wise loss of Park et al.,
    "Relational knowledge distillation", 2019. It is 0 for fewer than two regions.
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
    """Euclidean distances ``(N, N)``, computed from differences; from inner products, small ones would be inaccurate.

    The gradient of a distance of zero is zero. (``pdist`` would compute only the pairs, but its gradient crashes the
    process if there are no vectors.)
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
