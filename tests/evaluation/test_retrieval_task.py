from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from objemb.datasets.evaluation_set import EvaluationSet, SetEntry
from objemb.datasets.protocols import PROTOCOLS
from objemb.evaluation.retrieval_task import RetrievalTask, make_task, pick_queries, with_photos_as_queries

IMAGES = (
    SetEntry("a.jpg", ("cup",)),
    SetEntry("b.jpg", ("cup", "tea")),
    SetEntry("c.jpg", ("tea",)),
    SetEntry("empty.jpg", ()),
)
OBJECTS = (
    SetEntry("a.jpg", ("cup",), (0, 0, 5, 5)),
    SetEntry("b.jpg", ("cup",), (0, 0, 5, 5)),
    SetEntry("b.jpg", ("cup",), (5, 5, 9, 9)),
    SetEntry("b.jpg", ("tea",), (2, 2, 4, 4)),
    SetEntry("c.jpg", ("tea",), (0, 0, 1, 1)),
)
QUERIES = (
    SetEntry("b.jpg", ("cup",), (0, 0, 5, 5), {"kind": "shop", "package": True, "size": 3}),
    SetEntry("q.jpg", ("tea",), None, {"kind": "iconic", "package": False}),
    SetEntry("q.jpg", ("nothing",), None, {"kind": "iconic", "package": True}),
)
DATA = EvaluationSet(Path("set.json"), "set", IMAGES, OBJECTS, QUERIES)


def relevant(task: RetrievalTask) -> list[tuple[list[int], list[int]]]:
    return [(r.positives.tolist(), r.junk.tolist()) for r in task.relevance]


def test_image_level_leaves_out_the_queries_own_photo() -> None:
    task = make_task(DATA, "image")
    assert task.database == IMAGES
    assert relevant(task) == [([0], [1]), ([1, 2], []), ([], [])]


def test_object_level_leaves_out_all_objects_of_the_queries_own_photo() -> None:
    task = make_task(DATA, "object")
    assert task.database == OBJECTS
    assert relevant(task) == [([0], [1, 2, 3]), ([3, 4], []), ([], [])]


def test_every_object_may_be_a_query() -> None:
    task = make_task(DATA, "object", all_objects_as_queries=True)
    assert task.queries == OBJECTS
    assert relevant(task)[0] == ([1, 2], [0])
    assert relevant(task)[4] == ([3], [4])


def test_the_photos_of_queries_may_be_the_queries() -> None:
    more = (SetEntry("b.jpg", ("tea",), (2, 2, 4, 4), {"kind": "shop", "package": False, "colour": "red"}),)
    task = with_photos_as_queries(make_task(replace(DATA, queries=QUERIES + more), "image"))
    assert task.queries == (
        SetEntry("b.jpg", ("cup", "tea"), None, {"kind": "shop"}),
        SetEntry("q.jpg", ("tea", "nothing"), None, {"kind": "iconic"}),
    )
    assert relevant(task) == [([0, 2], [1]), ([1, 2], [])]
    assert relevant(replace(task, level="object", database=OBJECTS)) == [([0, 4], [1, 2, 3]), ([3, 4], [])]


def test_photos_cannot_be_queries_where_boxes_have_lists() -> None:
    listed = replace(QUERIES[0], relevant={"positive": ("a.jpg",)})
    with pytest.raises(ValueError, match="photos as queries: expected queries of instances, found lists"):
        with_photos_as_queries(make_task(replace(DATA, queries=(listed,))))


def test_queries_without_positives_are_named() -> None:
    assert make_task(DATA).queries_without_positives() == [
        "queries[2] (q.jpg, nothing): nothing in another photo is relevant"
    ]


def test_object_level_needs_objects() -> None:
    bare = EvaluationSet(Path("set.json"), "set", IMAGES, (), QUERIES)
    with pytest.raises(ValueError, match=r"set\.json: expected 'objects' with boxes"):
        make_task(bare, "object")
    with pytest.raises(ValueError, match="expected 'objects'"):
        make_task(bare, "image", all_objects_as_queries=True)
    with pytest.raises(ValueError, match="did you mean 'image'"):
        make_task(DATA, "imge")


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ([], [0, 1, 2]),
        (["kind=iconic"], [1, 2]),
        (["kind=iconic", "package=true"], [2]),
        (["size=3"], [0]),
        (["instance=tea"], [1]),
        (["file=b.jpg"], [0]),
    ],
)
def test_conditions_pick_queries_and_leave_the_database(conditions: list[str], kept: list[int]) -> None:
    task = pick_queries(make_task(DATA), conditions)
    assert task.queries == tuple(QUERIES[k] for k in kept)
    assert task.database == IMAGES


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("kind", "expected key=value such as kind=iconic, found 'kind'"),
        ("knd=shop", "did you mean 'kind'"),
        ("kind=none", "expected one of 'iconic', 'shop', found 'none'"),
    ],
)
def test_conditions_that_meet_nothing_say_so(condition: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pick_queries(make_task(DATA), [condition])


LISTED = SetEntry("b.jpg", (), None, {}, {"easy": ("c.jpg", "a.jpg"), "hard": ("b.jpg",), "junk": ("empty.jpg",)})


def test_lists_rule_where_a_query_has_some() -> None:
    task = RetrievalTask("image", IMAGES, (LISTED,), PROTOCOLS["revisited"])
    easy, medium, hard = (task.relevance_in(setup)[0] for setup in task.protocol.setups)
    # its own photo is junk throughout
    assert (easy.positives.tolist(), easy.junk.tolist()) == ([0, 2], [1, 3])
    assert (medium.positives.tolist(), medium.junk.tolist()) == ([0, 2], [1, 3])
    assert (hard.positives.tolist(), hard.junk.tolist()) == ([], [0, 1, 2, 3])
    assert relevant(task) == [([0, 2], [1, 3])], "the main setup is medium"
    assert task.queries_without_positives() == []
    nothing = RetrievalTask("image", IMAGES, (replace(LISTED, relevant={"junk": ("a.jpg",)}),), PROTOCOLS["revisited"])
    assert nothing.queries_without_positives() == ["queries[0] (b.jpg): nothing in another photo is relevant"]


def test_the_own_photo_may_count() -> None:
    task = RetrievalTask("image", IMAGES, QUERIES[:1], PROTOCOLS["ukbench"])
    assert relevant(task) == [([0, 1], [])]
    lists = RetrievalTask("image", IMAGES, (replace(LISTED, relevant={"good": ("b.jpg",)}),), PROTOCOLS["oxford"])
    assert relevant(lists) == [([1], [])]
    none = RetrievalTask("image", IMAGES, QUERIES[2:], PROTOCOLS["ukbench"])
    assert none.queries_without_positives() == ["queries[0] (q.jpg, nothing): nothing is relevant"]


def test_lists_are_about_photos() -> None:
    data = EvaluationSet(Path("set.json"), "set", IMAGES, OBJECTS, (LISTED,), PROTOCOLS["revisited"])
    with pytest.raises(
        ValueError, match=r"set\.json: expected its own queries at image level.*, found the object level"
    ):
        make_task(data, "object")
    with pytest.raises(ValueError, match="found all objects as queries"):
        make_task(data, all_objects_as_queries=True)
