"""Hard negative mining."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks


def hardest_negatives(
    queries: Tensor, query_instances: Tensor, pool: Tensor, pool_instances: Tensor, count: int
) -> Tensor:
    """The hardest negatives of each query: the most similar pool items of other instances, at most one per instance.

    After Radenovic et al., "Fine-tuning CNN image retrieval with no human annotation", TPAMI 2019.

    Args:
        queries: float ``(Q, D)``, unit vectors.
        query_instances: int64 ``(Q,)``.
        pool: float ``(P, D)``, unit vectors, on the same device.
        pool_instances: int64 ``(P,)``.
        count: Number of negatives per query.

    Returns:
        int64 ``(Q, count)`` row numbers of the pool, most similar first (ties: lowest row first); -1 where the pool has
        no further instance.
    """
    checks.shape("queries", queries, (None, None))
    checks.shape("query_instances", query_instances, (len(queries),))
    checks.shape("pool", pool, (None, queries.shape[1]))
    checks.shape("pool_instances", pool_instances, (len(pool),))
    chosen = torch.full((len(queries), checks.whole("count", count)), -1, device=queries.device)
    if len(pool) == 0 or len(queries) == 0:
        return chosen
    similar = queries.float() @ pool.float().T
    similar.masked_fill_(query_instances[:, None] == pool_instances[None], -torch.inf)
    for place in range(count):
        best, row = similar.max(dim=1)
        chosen[:, place] = row.where(best > -torch.inf, -1)
        similar.masked_fill_(pool_instances[row][:, None] == pool_instances[None], -torch.inf)
    return chosen
