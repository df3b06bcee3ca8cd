from __future__ import annotations

import torch

from objemb.models.pairs import PAIRS_PER_INSTANCE, positive_pairs


def test_all_pairs_of_few() -> None:
    assert positive_pairs(["a", "b", "a", "c", "a", "b"]).tolist() == [[0, 2], [0, 4], [2, 4], [1, 5]]
    assert positive_pairs(["a", "b"]).shape == positive_pairs([]).shape == (0, 2)


def test_some_pairs_of_many() -> None:
    instances = ["often"] * 500 + ["twice"] * 2
    pairs = positive_pairs(instances)
    assert len(pairs) == PAIRS_PER_INSTANCE + 1
    assert pairs[-1].tolist() == [500, 501]
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert (pairs[:-1] < 500).all()
    assert len(pairs.unique()) > 100, "spread over all of them"
    assert torch.equal(pairs, positive_pairs(instances))
