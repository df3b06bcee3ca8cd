"""NetVLAD (Arandjelovic et al., "NetVLAD: CNN architecture for weakly supervised place recognition", CVPR 2016)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objemb import checks
from objemb.layers.fitted import Fitted
from objemb.ops.kmeans import kmeans, squared_distances
from objemb.ops.rectangles import equal_rectangles
from objemb.ops.tensors import l2
from objemb.pooling.base import Pooling
from objemb.registry import plugin

ASSIGNMENTS = ("dot", "distance")
#: Initial assignment to the second best cluster relative to the best, for a local feature with the mean difference of
#: scores between the two.
SECOND_BEST = 0.01


@plugin
class NetVlad(Pooling, Fitted):
    """Residuals of local features to the centres of clusters, to which they are assigned softly.

    With ``x`` the unit local features, ``V_k = sum_x a_k(x) (x - c_k)`` and ``a(x) = softmax(w x + b)`` (equations 2 to
    4); each ``V_k`` is normalised (intra-normalisation), and they are concatenated. Cells without any activation have
    no direction and are left out. The caller normalises the result.

    The initialisation is close to VLAD: ``c`` are the centres of clusters of local features, and ``alpha`` is chosen so
    that for an average feature the second best cluster has a hundredth of the weight of the best.

    * ``dot``, the first version of the authors' code: ``w_k = alpha c_k / |c_k|``, ``b = 0``, alpha from the mean
      difference of the two largest cosines.
    * ``distance``, the paper's derivation: ``w_k = 2 alpha c_k``, ``b_k = -alpha |c_k|^2``, alpha from the mean
      difference of the two smallest squared distances. The second version of the authors' code has ``|c_k|`` without
      the square in ``b``; here, it is exactly that of the softmax of ``-alpha |x - c_k|^2``.

    Afterwards ``w``, ``b`` and ``c`` are independent parameters that can be trained.

    Args:
        clusters: K; the length of vectors is K times the channels of the map.
        assignment: ``"dot"`` or ``"distance"``.

    Attributes:
        weight: w, float32 ``(K, C)``.
        bias: b, float32 ``(K,)``; None for ``dot``.
        centres: c, float32 ``(K, C)``.
    """

    needed = 50_000
    weight: Tensor
    bias: Tensor | None
    centres: Tensor

    def __init__(self, *, clusters: int = 64, assignment: str = "distance") -> None:
        super().__init__()
        self.expansion = checks.whole("clusters", clusters, least=2)
        self.assignment = checks.one_of("assignment", assignment, ASSIGNMENTS)

    def connect(self, channels: int) -> None:
        """See :meth:`Pooling.connect`."""
        if hasattr(self, "centres"):
            raise RuntimeError(f"netvlad: expected one not connected yet, found {self.centres.shape[1]} channels")
        self.centres = nn.Parameter(torch.zeros(self.expansion, channels))
        self.weight = nn.Parameter(torch.zeros(self.expansion, channels))
        self.bias = nn.Parameter(torch.zeros(self.expansion)) if self.assignment == "distance" else None

    def learn(self, vectors: Tensor) -> None:
        """See :meth:`Fitted.learn`; from local features ``(N, C)`` of any length."""
        features = l2(checks.shape("vectors", vectors, (None, self.centres.shape[1])))
        features = features[(features != 0).any(dim=1)]
        centres = kmeans(features, self.expansion)
        if self.bias is None:
            directions = l2(centres)
            alpha = _sharpness(torch.cat([block @ directions.T for block in features.split(8192)]))
            self.weight.copy_(alpha * directions)
        else:
            alpha = _sharpness(-torch.cat(list(squared_distances(features, centres))))
            self.weight.copy_(2 * alpha * centres)
            self.bias.copy_(-alpha * centres.square().sum(dim=1))
        self.centres.copy_(centres)

    def forward(self, maps: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Pooling.forward`."""
        features, assigned = self._assign(maps)
        if weights is not None:
            assigned = assigned * weights.flatten(1)[:, None].to(assigned.dtype)
        return self._residuals(features, assigned)

    def rectangles(self, maps: Tensor, cells: Tensor) -> Tensor:
        """See :meth:`Pooling.rectangles`. Maps are assigned once, whatever the rectangles."""
        both = torch.cat(self._assign(maps), dim=1).unflatten(2, maps.shape[2:])
        pooled: Tensor = both.new_empty(len(cells), self.length(maps.shape[1]))
        for rows, cut in equal_rectangles(both, cells):
            features, assigned = cut.flatten(2).split([maps.shape[1], self.expansion], dim=1)
            pooled[rows] = self._residuals(features, assigned)
        return pooled

    def _assign(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Unit features ``(M, C, P)`` of P cells, and their soft assignments to the clusters ``(M, K, P)``."""
        self.check_fitted()
        features = F.normalize(checks.shape("maps", maps, (None, self.centres.shape[1], None, None)).flatten(2), dim=1)
        scores = self.weight @ features
        if self.bias is not None:
            scores = scores + self.bias[:, None]
        return features, scores.softmax(dim=1) * (features != 0).any(dim=1, keepdim=True)

    def _residuals(self, features: Tensor, assigned: Tensor) -> Tensor:
        """Vectors ``(M, K * C)`` from the output of :meth:`_assign`."""
        centres = assigned.sum(dim=2)[:, :, None] * self.centres
        return F.normalize(assigned @ features.transpose(1, 2) - centres, dim=2).flatten(1)


def _sharpness(scores: Tensor) -> float:
    """alpha for which the softmax of alpha times scores ``(N, K)`` gives the second best ``SECOND_BEST`` of the best,
    at the mean difference of their scores."""
    best, second = scores.topk(2, dim=1).values.unbind(dim=1)
    gap = float((best - second).double().mean())
    if gap <= 0:
        raise ValueError("netvlad: expected features that are nearer to one cluster than to others, found none")
    return -math.log(SECOND_BEST) / gap
