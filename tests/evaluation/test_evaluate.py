from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from objemb.datasets.evaluation_set import EvaluationSet, read_evaluation_set
from objemb.evaluation.described import describe_task
from objemb.evaluation.evaluate import evaluate, evaluate_described
from objemb.evaluation.retrieval_task import make_task
from objemb.layers.precision import computed, networks_in
from objemb.rerank.base import Reranker, Search
from tests.evaluation.colours import ColourModel, Patches, write_set


@pytest.fixture
def data(tmp_path: Path) -> EvaluationSet:
    return read_evaluation_set(write_set(tmp_path))


def test_object_level(data: EvaluationSet) -> None:
    model = ColourModel()
    found = evaluate(model, data, make_task(data, "object"))
    assert found.scores.means["mAP"] == pytest.approx(1.0)
    assert (found.scores.queries, found.scores.skipped) == (2, 0)
    assert found.storage == {"vectors": 6, "vectors_per_image": 2.0, "bytes_per_image": 24.0}
    assert found.localisation is None
    every = evaluate(model, data, make_task(data, "object", all_objects_as_queries=True))
    assert (every.scores.means["P@1"], every.scores.queries) == (1.0, 6)


def test_image_level_with_boxes_says_how_well_they_lie(data: EvaluationSet) -> None:
    task = make_task(data, "image")
    found = evaluate(ColourModel(), data, task, boxes=Patches())
    assert found.storage["vectors_per_image"] == 3
    assert found.localisation is not None
    # the red query finds b.png by a strip of the left patch, the green one a.png and c.png by the right patches
    assert found.localisation.boxes == 3
    assert found.localisation.mean_iou == pytest.approx((0.4 + 1 + 1) / 3)
    assert found.localisation.corloc == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="boxes: expected none at object level"):
        evaluate(ColourModel(), data, make_task(data, "object"), boxes=Patches())


def test_no_true_boxes_no_localisation(tmp_path: Path) -> None:
    data = read_evaluation_set(write_set(tmp_path, objects=[]))
    assert evaluate(ColourModel(), data, make_task(data)).localisation is None


def test_problems_are_listed_and_the_rest_is_measured(tmp_path: Path) -> None:
    queries = [
        {"file": "gone.png", "instance": "red"},
        {"file": "q.png", "instance": "violet"},
        {"file": "q.png", "instance": "green"},
        {"file": "q.png", "instance": "green", "box": [0, 0, 11, 11]},
    ]
    data = read_evaluation_set(write_set(tmp_path, queries=queries))
    found = evaluate(ColourModel(), data, make_task(data))
    assert (found.scores.queries, found.scores.skipped) == (1, 3)
    assert [p.partition(":")[0] for p in found.problems] == ["gone.png", "q.png", "queries[1] (q.png, violet)"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    data = read_evaluation_set(write_set(tmp_path, queries=[{"file": "q.png", "instance": "violet"}]))
    written = json.loads(json.dumps(evaluate(ColourModel(), data, make_task(data)).to_json(), allow_nan=False))
    assert written["scores"]["mAP"] is None
    assert written["localisation"] == {"mean_iou": None, "corloc": None, "boxes": 0}
    assert (written["queries"], written["skipped"]) == (0, 1)


class Swap(Reranker):
    """Puts the second of the first two hits first, with a box of its own."""

    depth = 2
    box = (1.0, 1.0, 2.0, 2.0)

    def rerank(self, search: Search) -> Search:
        results = tuple(
            replace(r, hits=(replace(r[1], score=2.0, box=self.box), *r.hits[:1], *r.hits[2:])) if len(r) > 1 else r
            for r in search.results
        )
        return replace(search, results=results)


class Forget(Reranker):
    """Searches with all queries turned around, and finds nothing itself."""

    depth = 1

    def rerank(self, search: Search) -> Search:
        queries = tuple(replace(q, vectors=-q.vectors) for q in search.queries)
        return replace(search, queries=queries, results=tuple(replace(r, hits=()) for r in search.results))


def test_what_is_re_ranked_comes_first_and_the_others_follow(data: EvaluationSet) -> None:
    model, task = ColourModel(), make_task(data, "image")
    described = describe_task(model, data, task, boxes=Patches())
    plain = evaluate_described(described, data, task, hits=3)
    order = [[hit.image for hit in result] for result in plain.results]
    swapped = evaluate_described(described, data, task, rerankers=[Swap()])
    again = [[hit.image for hit in result] for result in swapped.results]
    assert again == [[one[1], one[0]] for one in order]
    numbers = {entry.file: number for number, entry in enumerate(task.database)}
    for ranked, of_query, first in zip(swapped.ranked, order, again, strict=True):
        expected = [*first, *(image for image in of_query if image not in first)]
        for item, place, box in zip(ranked.items, ranked.places, ranked.boxes, strict=True):
            assert expected[place] == task.database[item].file
            assert (box.tolist() == list(Swap.box)) == (item == numbers[first[0]])
    assert swapped.localisation != plain.localisation
    assert set(swapped.seconds) == {*plain.seconds, "rerank_per_query"}


def test_the_last_queries_of_the_re_rankers_rank_the_others(data: EvaluationSet) -> None:
    task = make_task(data, "object")
    described = describe_task(ColourModel(), data, task)
    turned = replace(described, queries=replace(described.queries, vectors=-described.queries.vectors))
    found, expected = (
        evaluate_described(described, data, task, rerankers=[Forget()]),
        evaluate_described(turned, data, task),
    )
    assert found.scores.means == expected.scores.means
    assert found.scores.means["mAP"] < 1


def test_results_name_photos_and_objects(data: EvaluationSet) -> None:
    found = evaluate(ColourModel(), data, make_task(data, "object"), hits=2)
    assert [hit.image for hit in found.results[0]] == ["a.png#0", "b.png#2"]
    assert (found.results[0].query_image, found.results[0].query_boxes) == ("a.png", ((0, 0, 20, 20),))
    assert make_task(data, "image").item_ids == ("a.png", "b.png", "c.png")
    assert evaluate(ColourModel(), data, make_task(data)).results == ()


def test_re_rankers_can_look_into_photos(data: EvaluationSet) -> None:
    seen: list[str] = []

    class Look(Reranker):
        depth = 1

        def rerank(self, search: Search) -> Search:
            seen.extend((search.found_photo(search.results[0][0].image).id, search.query_photo(1).id))
            return search

    for level in ("image", "object"):
        task = make_task(data, level)
        evaluate(ColourModel(), data, task, rerankers=[Look()])
    assert seen == ["b.png", "q.png", "a.png#0", "q.png"]


def test_queries_without_rows_are_no_obstacle_to_re_ranking(tmp_path: Path) -> None:
    queries = [{"file": "gone.png", "instance": "red"}, {"file": "q.png", "instance": "green"}]
    data = read_evaluation_set(write_set(tmp_path, queries=queries))
    found = evaluate(ColourModel(), data, make_task(data), rerankers=[Swap()])
    assert (found.scores.queries, len(found.results[0]), len(found.results[1])) == (1, 0, 2)


def test_the_best_image_is_the_guess_of_a_query(tmp_path: Path) -> None:
    """a.png is the query's own photo and out; b.png shows red, and is right. q.png is more green than c.png."""
    data = read_evaluation_set(write_set(tmp_path, protocol="recognition"))
    found = evaluate(ColourModel(), data, make_task(data, "object"))
    assert found.scores.means == {"GAP": pytest.approx(1.0)}
    turned = describe_task(ColourModel(), data, make_task(data, "object"))
    turned.queries.vectors[0] *= -1  # now the red query guesses wrong, at a lower score than the other is sure of
    assert evaluate_described(turned, data, make_task(data, "object")).scores.means["GAP"] == pytest.approx(0.5)


def test_the_set_says_how_boxes_are_seen(tmp_path: Path) -> None:
    data = read_evaluation_set(write_set(tmp_path, crop="scaled"))
    for given, crop in ((None, "scaled"), ("crop", "crop")):
        model = ColourModel()
        evaluate(model, data, make_task(data), crop=given)
        assert {c for _, boxes, c in model.queried if boxes} == {crop}


@pytest.mark.parametrize(("given", "database"), [(None, "scaled"), ("crop", "crop"), ("whole", "context")])
def test_boxes_that_are_compared_are_seen_alike(tmp_path: Path, given: str | None, database: str) -> None:
    data = read_evaluation_set(write_set(tmp_path, crop="scaled"))
    task = make_task(data, "object")
    for part, crop in (("database", database), ("queries", given or "scaled")):
        model = ColourModel()
        describe_task(
            model, data, replace(task, **{{"database": "queries", "queries": "database"}[part]: ()}), crop=given
        )
        assert {c for _, boxes, c in model.queried if boxes} == {crop}, part


def test_rerankers_compute_in_the_precision_of_the_model(data: EvaluationSet) -> None:
    class Half(ColourModel):
        def computing(self) -> AbstractContextManager[None]:
            return networks_in(torch.bfloat16)

    class Watching(Reranker):
        depth = 1

        def rerank(self, search: Search) -> Search:
            thirds.append(computed(torch.device("cpu"), torch.mm, torch.eye(2), torch.eye(2) / 3).tolist()[0][0])
            return search

    thirds: list[float] = []
    for model in (ColourModel(), Half()):
        evaluate(model, data, make_task(data), rerankers=[Watching()])
    assert thirds == [torch.tensor(1 / 3).item(), torch.tensor(1 / 3).bfloat16().item()]
