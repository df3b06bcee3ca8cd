from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from objemb.evaluation import instances as module
from objemb.evaluation.instances import instance_retrieval, instance_retrieval_by_class
from objemb.evaluation.metrics import average_precision
from tests.evaluation.reference import slow_ranks


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
            ranks = slow_ranks(ranking.tolist(), positives.tolist(), junk.tolist())
            precisions.append(average_precision(ranks, len(positives)))
            firsts.append(0 in ranks)
    found = instance_retrieval(vectors, instances, images)
    assert found["mAP"] == pytest.approx(np.mean(precisions), abs=1e-9)
    assert found["P@1"] == pytest.approx(np.mean(firsts))
    assert found["queries"] == len(precisions)


def test_by_class_by_hand() -> None:
    """One instance in four photos, small (0) and large (1), and a box of another instance that stands in the way."""
    vectors = torch.tensor([[1.0, 0], [0.8, 0.6], [0.6, 0.8], [0.97, 0.24], [0.0, 1]])
    instances, images = torch.tensor([3, 3, 3, 4, 3]), torch.tensor([0, 1, 2, 3, 3])
    classes = torch.tensor([0, 1, 0, -1, 1])
    found = instance_retrieval_by_class(vectors, instances, images, classes, 3)
    orders = {0: [3, 1, 2, 4], 1: [2, 3, 0, 4], 2: [1, 4, 3, 0], 4: [2, 1, 0]}  # box 3 is in the photo of query 4
    for query, order in orders.items():
        similar = vectors @ vectors[query]
        assert sorted(order, key=lambda n: -float(similar[n])) == order
    # all positives: ranks 1 2 3; 0 2 3; 0 1 3; 0 1 2
    precisions = {
        q: average_precision(r, 3) for q, r in {0: [1, 2, 3], 1: [0, 2, 3], 2: [0, 1, 3], 4: [0, 1, 2]}.items()
    }
    assert found.queries[0] == {"mAP": pytest.approx((precisions[0] + precisions[2]) / 2), "P@1": 0.5, "queries": 2}
    assert found.queries[1] == {"mAP": pytest.approx((precisions[1] + precisions[4]) / 2), "P@1": 1.0, "queries": 2}
    assert found.queries[2]["queries"] == 0
    # small ones alone are right, large ones of the instance junk: 0: 3 2*; 1: 2* 3 0*; 2: 3 0*; 4: 2* 0*
    small = [average_precision(r, n) for r, n in (([1], 1), ([0, 2], 2), ([1], 1), ([0, 1], 2))]
    assert found.objects[0] == {"mAP": pytest.approx(np.mean(small)), "P@1": 0.5, "queries": 4}
    # large ones alone: 0: 3 1* 4*; 1: 3 4*; 2: 1* 4*; 4: 1*
    large = [average_precision(r, n) for r, n in (([1, 2], 2), ([1], 1), ([0, 1], 2), ([0], 1))]
    assert found.objects[1] == {"mAP": pytest.approx(np.mean(large)), "P@1": 0.5, "queries": 4}
    assert math.isnan(found.objects[2]["mAP"])


def test_by_class_against_the_slow_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 7)
    generator = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(50, 4, generator=generator))
    asking = torch.nn.functional.normalize(vectors + 0.5 * torch.randn(50, 4, generator=generator))
    instances = torch.randint(-1, 5, (50,), generator=generator)
    images = torch.randint(0, 12, (50,), generator=generator)
    classes = torch.randint(-1, 3, (50,), generator=generator)
    found = instance_retrieval_by_class(vectors, instances, images, classes, 3, asking=asking)
    for number in range(3):
        of_queries = instance_retrieval(vectors, instances, images, classes == number, asking=asking)
        assert found.queries[number] == pytest.approx(of_queries)
        precisions, firsts = [], []
        for query in range(50):
            ranking = np.argsort(-(vectors @ asking[query]).numpy(), kind="stable")
            same = (instances == instances[query]) & (images != images[query])
            positives = (same & (classes == number)).nonzero().flatten().numpy()
            junk = ((images == images[query]) | (same & (classes != number))).nonzero().flatten().numpy()
            if instances[query] >= 0 and len(positives):
                ranks = slow_ranks(ranking.tolist(), positives.tolist(), junk.tolist())
                precisions.append(average_precision(ranks, len(positives)))
                firsts.append(0 in ranks)
        assert found.objects[number]["mAP"] == pytest.approx(np.mean(precisions), abs=1e-9)
        assert found.objects[number]["P@1"] == pytest.approx(np.mean(firsts))
        assert found.objects[number]["queries"] == len(precisions)


def test_nothing_to_search_for() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    found = instance_retrieval(torch.zeros(0, 3), none, none)
    assert found["queries"] == 0
    assert math.isnan(found["mAP"])
    by_class = instance_retrieval_by_class(torch.zeros(0, 3), none, none, none, 2)
    assert [of["queries"] for of in (*by_class.queries, *by_class.objects)] == [0] * 4
    assert math.isnan(instance_retrieval(torch.ones(2, 3), torch.tensor([1, 1]), torch.tensor([0, 0]))["mAP"])


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="instances: expected shape"):
        instance_retrieval(torch.ones(2, 3), torch.tensor([1]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="vectors: expected finite values"):
        instance_retrieval(torch.full((2, 3), torch.nan), torch.tensor([1, 1]), torch.tensor([0, 0]))
    boxes = torch.ones(2, 3), torch.tensor([1, 1]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="classes: expected numbers up to 1, found 2"):
        instance_retrieval_by_class(*boxes, torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match="classes: expected shape"):
        instance_retrieval_by_class(*boxes, torch.tensor([0]), 2)


def test_another_model_may_ask() -> None:
    """Boxes 0 and 2 of photo 0, 1 and 3 of photo 1; what is searched is turned by a quarter against what asks."""
    searched = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    instances, images = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert instance_retrieval(searched, instances, images)["P@1"] == 1
    assert instance_retrieval(searched, instances, images, asking=searched.flip(1))["P@1"] == 0
    with pytest.raises(ValueError, match="asking: expected shape"):
        instance_retrieval(searched, instances, images, asking=searched[:2])
