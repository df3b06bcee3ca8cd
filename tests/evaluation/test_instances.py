from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from objemb.evaluation import instances as module
from objemb.evaluation.instances import instance_retrieval
from objemb.evaluation.metrics import average_precision, ranks_without_junk


def test_by_hand() -> None:
    # query 0 finds 2 (wrong), then 1 (right); query 1 finds 2, then 0; 2 and 3 have no positives elsewhere
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [1.0, 0.0]])
    instances, images = torch.tensor([5, 5, 7, -1]), torch.tensor([0, 1, 2, 0])
    found = instance_retrieval(vectors, instances, images)
    # box 3 is in the image of query 0: junk for it, but in the way of query 1
    first, second = average_precision([1], 1), average_precision([1], 1)
    assert found == {"mAP": pytest.approx((first + second) / 2), "P@1": 0.0, "queries": 2.0}
    assert instance_retrieval(vectors, instances, images, torch.tensor([False] * 3 + [True]))["queries"] == 0


def test_against_the_slow_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 7)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(60, 4, generator=generator))
    instances = torch.randint(-1, 6, (60,), generator=generator)
    images = torch.randint(0, 15, (60,), generator=generator)
    precisions, firsts = [], []
    for query in range(60):
        if instances[query] < 0:
            continue
        ranking = np.argsort(-(vectors @ vectors[query]).numpy(), kind="stable")
        junk = (images == images[query]).nonzero().flatten().numpy()
        positives = ((instances == instances[query]) & (images != images[query])).nonzero().flatten().numpy()
        if len(positives):
            ranks = ranks_without_junk(ranking, positives, junk)
            precisions.append(average_precision(ranks, len(positives)))
            firsts.append(0 in ranks)
    found = instance_retrieval(vectors, instances, images)
    assert found["mAP"] == pytest.approx(np.mean(precisions), abs=1e-9)
    assert found["P@1"] == pytest.approx(np.mean(firsts))
    assert found["queries"] == len(precisions)


def test_nothing_to_search_for() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    found = instance_retrieval(torch.zeros(0, 3), none, none)
    assert found["queries"] == 0
    assert math.isnan(found["mAP"])
    assert math.isnan(instance_retrieval(torch.ones(2, 3), torch.tensor([1, 1]), torch.tensor([0, 0]))["mAP"])


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="instances: expected shape"):
        instance_retrieval(torch.ones(2, 3), torch.tensor([1]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="vectors: expected finite values"):
        instance_retrieval(torch.full((2, 3), torch.nan), torch.tensor([1, 1]), torch.tensor([0, 0]))


def test_another_model_may_ask() -> None:
    """Boxes 0 and 2 of photo 0, 1 and 3 of photo 1; what is searched is turned by a quarter against what asks."""
    searched = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    instances, images = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert instance_retrieval(searched, instances, images)["P@1"] == 1
    assert instance_retrieval(searched, instances, images, asking=searched.flip(1))["P@1"] == 0
    with pytest.raises(ValueError, match="asking: expected shape"):
        instance_retrieval(searched, instances, images, asking=searched[:2])
