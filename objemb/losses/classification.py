"""Classification loss for embeddings: softmax over the cosines to one prototype per identity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb import checks
from objemb.ops.tensors import l2


def cosine_softmax_loss(
    vectors: Tensor, prototypes: Tensor, labels: Tensor, *, scale: float = 16.0, margin: float = 0.0
) -> Tensor:
    """Cross-entropy of ``softmax_c(s (<v_i, p_c> - m [c = y_i]))``, mean over the vectors, all brought to unit length.

    With a margin of 0 this is NormFace (Wang et al., "NormFace: L2 hypersphere embedding for face verification", 2017,
    equation 5), with a margin above 0 CosFace (Wang et al., "CosFace: large margin cosine loss", 2018, equation 4).
    Computed in float32.

    Args:
        vectors: float ``(N, D)``; for N = 0 the loss is 0, with a gradient of 0.
        prototypes: float ``(C, D)``, trainable: the direction of each identity.
        labels: int64 ``(N,)``, 0 to C - 1.
        scale: s, the inverse temperature. Without it, a softmax of cosines could never be confident.
        margin: m, by which the cosine of the correct identity should exceed the others.

    Returns:
        A float32 scalar.
    """
    checks.shape("vectors", vectors, (None, prototypes.shape[1]))
    checks.shape("labels", labels, (len(vectors),))
    checks.positive("scale", scale)
    checks.between("margin", margin, 0, 1)
    if len(vectors) == 0:
        return (vectors.sum() + prototypes.sum()) * 0
    cosines = l2(vectors.float()) @ l2(prototypes.float()).T
    right = F.one_hot(labels, len(prototypes)).to(cosines)
    return F.cross_entropy(scale * (cosines - margin * right), labels)


def start_prototypes(count: int, dim: int) -> Tensor:
    """Initial prototypes: random unit vectors, float32 ``(count, dim)``."""
    return l2(torch.randn(checks.whole("count", count), checks.whole("dim", dim)))
