from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch

from objemb.structures import NO_LABEL, LazyHits, Match, Photo, QueryView, RegionDescriptors, Regions, SearchResult
from objemb.structures.fields import ReadOnlyDict

SIZE = (20, 30)  # height, width
BOXES = torch.tensor([[0.0, 0, 30, 20], [1, 2, 3, 4], [5, 5, 5, 5]])


def regions() -> Regions:
    return Regions(
        BOXES,
        SIZE,
        scores=torch.tensor([1.0, 0.9, 0.3]),
        labels=torch.tensor([NO_LABEL, 0, 1]),
        classes=("cup", "tea"),
        extras={"masks": torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2), "track": ("a", None, 7)},
    )


def assert_same(first: Regions, second: Regions) -> None:
    assert json.dumps(first.to_json()) == json.dumps(second.to_json())


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value.to_json(), allow_nan=False))


class TestPhoto:
    def test_scale_goes_from_original_to_decoded_pixels(self) -> None:
        photo = Photo("a.jpg", torch.zeros(3, 10, 30, dtype=torch.uint8), (40, 90), {"price": 3.5, "sold": None})
        assert photo.scale == (10 / 40, 30 / 90)
        assert dict(photo.metadata) == {"price": 3.5, "sold": None}

    @pytest.mark.parametrize(
        ("pixels", "size", "error", "message"),
        [
            (torch.zeros(3, 4, 5), (4, 5), TypeError, "expected dtype uint8, found float32"),
            (torch.zeros(4, 5, 3, dtype=torch.uint8), (4, 5), ValueError, r"\(3, any, any\), found \(4, 5, 3\)"),
            (torch.zeros(3, 0, 5, dtype=torch.uint8), (4, 5), ValueError, "expected at least one pixel"),
            (torch.zeros(3, 4, 5, dtype=torch.uint8), (0, 5), ValueError, r"integers above 0, found \(0, 5\)"),
            (torch.zeros(3, 4, 5, dtype=torch.uint8), (4.0, 5.0), ValueError, "two integers"),
            (torch.zeros(3, 4, 5, dtype=torch.uint8), 4, ValueError, r"expected \(height, width\) .*, found 4"),
        ],
    )
    def test_is_checked(self, pixels: torch.Tensor, size: Any, error: type, message: str) -> None:
        with pytest.raises(error, match=message):
            Photo("a.jpg", pixels, size)

    def test_metadata_are_scalars_and_frozen(self) -> None:
        pixels = torch.zeros(3, 1, 1, dtype=torch.uint8)
        for bad in ({"tags": ["x"]}, {3: "x"}):
            with pytest.raises(TypeError, match="expected strings to JSON scalars"):
                Photo("a.jpg", pixels, (1, 1), bad)  # type: ignore[arg-type]
        given = {"price": 1}
        photo = Photo("a.jpg", pixels, (1, 1), given)
        given["price"] = 2
        assert photo.metadata["price"] == 1
        with pytest.raises(TypeError):
            photo.metadata["price"] = 3  # type: ignore[index]


class TestRegions:
    def test_defaults(self) -> None:
        found = Regions(BOXES.double(), SIZE)
        assert found.boxes.dtype == np.float32
        assert found.scores.tolist() == [1, 1, 1]
        assert found.labels.tolist() == [NO_LABEL] * 3
        assert found.label_names == (None, None, None)

    def test_whole_and_empty(self) -> None:
        assert Regions.whole(SIZE).boxes.tolist() == [[0, 0, 30, 20]]
        empty = Regions.empty(SIZE)
        assert len(empty) == 0
        assert empty.boxes.shape == (0, 4)
        assert empty.label_names == ()
        assert list(empty) == []
        assert len(Regions(torch.zeros(0), SIZE)) == 0
        assert_same(Regions.from_json(through_json(empty)), empty)

    def test_label_names(self) -> None:
        assert regions().label_names == (None, "cup", "tea")
        assert Regions(BOXES, SIZE, labels=torch.tensor([4, -1, 0])).label_names == ("4", None, "0")

    def test_rounding_errors_are_clipped(self) -> None:
        found = Regions(torch.tensor([[-0.005, 0, 30.005, 20]]), SIZE)
        assert found.boxes.tolist() == [[0, 0, 30, 20]]

    @pytest.mark.parametrize(
        ("box", "found"),
        [
            ([-1.0, 0, 5, 5], r"box 1 = \(-1.0, 0.0, 5.0, 5.0\) \(1 such boxes\)"),
            ([0.0, 0, 31, 5], "box 1 = .0.0, 0.0, 31.0, 5.0."),
            ([0.0, 0, 5, 21], "0 <= y1 <= y2 <= 20"),
            ([5.0, 0, 4, 5], "0 <= x1 <= x2 <= 30"),
            ([0.0, 0, float("nan"), 5], "finite"),
        ],
    )
    def test_boxes_must_lie_in_the_image(self, box: list[float], found: str) -> None:
        with pytest.raises(ValueError, match=found):
            Regions(torch.tensor([[0.0, 0, 1, 1], box]), SIZE)

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            (
                {"boxes": [["a", "b", "c", "d"]]},
                TypeError,
                "Regions.boxes: expected an array or a tensor of num",
            ),
            ({"boxes": torch.zeros(3, 5)}, ValueError, r"expected shape \(any, 4\), found \(3, 5\)"),
            ({"scores": torch.ones(2)}, ValueError, r"Regions.scores: expected shape \(3\), found \(2,\)"),
            ({"scores": torch.tensor([1, 2, float("inf")])}, ValueError, "Regions.scores: expected finite"),
            ({"labels": torch.zeros(3)}, TypeError, "Regions.labels: expected an integer dtype, found float32"),
            ({"labels": torch.tensor([0, 1, 2])}, ValueError, "expected labels below 2, found 2"),
            ({"labels": torch.tensor([0, 1, -2])}, ValueError, "expected labels of at least -1, found -2"),
            (
                {"extras": {"masks": torch.zeros(2, 4)}},
                ValueError,
                r"'masks'\]: expected shape \(3, any\), found \(2, 4\)",
            ),
            ({"extras": {"m": torch.tensor(3)}}, ValueError, r"'m'\]: expected shape \(3\), found \(\)"),
            ({"extras": {"track": ("a", "b")}}, ValueError, r"'track'\]: expected 3 rows, one per region, found 2"),
            (
                {"extras": {"track": "abc"}},
                TypeError,
                "a tensor or a sequence of JSON scalars, found 'abc'",
            ),
            ({"extras": {"track": ([], [], [])}}, TypeError, "sequence of JSON scalars"),
            ({"size": (20, 30.5)}, ValueError, "Regions.size: expected"),
        ],
    )
    def test_is_checked(self, changes: dict[str, Any], error: type, message: str) -> None:
        with pytest.raises(error, match=message):
            Regions(**{"boxes": BOXES, "size": SIZE, "classes": ("cup", "tea"), **changes})

    @pytest.mark.parametrize(
        ("index", "rows"),
        [
            (1, [1]),
            (-1, [2]),
            (torch.tensor(2), [2]),
            (slice(1, None), [1, 2]),
            (slice(None, None, -1), [2, 1, 0]),
            (slice(3, None), []),
            ([2, 0, 2], [2, 0, 2]),
            ([], []),
            (torch.tensor([True, False, True]), [0, 2]),
            ([False, True, False], [1]),
            (torch.tensor([2, -3]), [2, 0]),
        ],
    )
    def test_everything_is_picked_together(self, index: Any, rows: list[int]) -> None:
        whole, found = regions(), regions()[index]
        assert found.boxes.tolist() == [BOXES[r].tolist() for r in rows]
        assert found.scores.tolist() == [whole.scores[r] for r in rows]
        assert found.label_names == tuple(whole.label_names[r] for r in rows)
        assert found.extras["masks"].shape == (len(rows), 2, 2)
        assert found.extras["masks"].tolist() == [whole.extras["masks"][r].tolist() for r in rows]
        assert found.extras["track"] == tuple(whole.extras["track"][r] for r in rows)
        assert found.size == SIZE

    @pytest.mark.parametrize(
        ("index", "error"),
        [(3, IndexError), (-4, IndexError), ([0, 9], IndexError), ([True, False], ValueError), (0.5, TypeError)],
    )
    def test_bad_indices(self, index: Any, error: type) -> None:
        with pytest.raises(error):
            regions()[index]

    def test_iterates_region_by_region(self) -> None:
        assert [tuple(r.boxes[0].tolist()) for r in regions()] == [tuple(b) for b in BOXES.tolist()]

    def test_cat_keeps_the_extras_that_all_have(self) -> None:
        named = regions()
        both = Regions.cat([named, named[:1]])
        assert len(both) == 4
        assert both.extras["track"] == ("a", None, 7, "a")
        assert both.extras["masks"].shape == (4, 2, 2)
        mixed = Regions.cat([Regions.whole(SIZE), named])
        assert mixed.classes == named.classes
        assert dict(mixed.extras) == {}
        assert mixed.label_names == (None, None, "cup", "tea")
        assert len(Regions.cat([Regions.empty(SIZE), Regions.empty(SIZE)])) == 0

    def test_cat_of_what_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match="expected at least one part"):
            Regions.cat([])
        with pytest.raises(ValueError, match="expected one image size"):
            Regions.cat([Regions.whole((5, 5)), Regions.whole((6, 5))])
        with pytest.raises(ValueError, match="one set of classes"):
            Regions.cat([regions(), Regions(BOXES, SIZE, classes=("other",))])

    def test_json_round_trip(self) -> None:
        found = Regions.from_json(through_json(regions()))
        assert_same(found, regions())
        assert found.array("masks").dtype == np.uint8
        assert np.array_equal(found.array("masks"), regions().array("masks"))
        with pytest.raises(ValueError, match="Regions: expected the keys 'size', 'boxes'"):
            Regions.from_json({"size": [1, 1]})
        with pytest.raises(ValueError, match=r"payload dtype: expected one of .*, found 'uint16'"):
            Regions(BOXES, SIZE, extras={"x": np.zeros(3, np.uint16)}).to_json()
        broken = {**through_json(regions()), "extras": {"x": {"values": []}}}
        with pytest.raises(ValueError, match="payload: expected the keys 'dtype', 'values', found 'values'"):
            Regions.from_json(broken)


class TestRegionDescriptors:
    def described(self) -> RegionDescriptors:
        return RegionDescriptors("a.jpg", regions(), torch.eye(3, 5, dtype=torch.float64), {"price": 2})

    def test_rows_go_with_their_regions(self) -> None:
        found = self.described()
        assert (len(found), found.dim, found.vectors.dtype) == (3, 5, np.float32)
        picked = found[[2, 1]]
        assert picked.vectors.tolist() == [[0, 0, 1, 0, 0], [0, 1, 0, 0, 0]]
        assert picked.regions.label_names == ("tea", "cup")
        assert [len(f) for f in found] == [1, 1, 1]
        assert found[:0].vectors.shape == (0, 5)

    @pytest.mark.parametrize(
        ("image", "vectors", "error", "message"),
        [
            ("", torch.zeros(3, 2), ValueError, "image: expected a non-empty string"),
            (7, torch.zeros(3, 2), ValueError, "image: expected a non-empty string, found 7"),
            ("a", torch.zeros(2, 2), ValueError, r"vectors: expected shape \(3, any\), found \(2, 2\)"),
            ("a", torch.full((3, 2), float("nan")), ValueError, "vectors: expected finite"),
            ("a", [[None]], TypeError, "vectors: expected an array or a tensor of numbers, found list"),
        ],
    )
    def test_is_checked(self, image: Any, vectors: Any, error: type, message: str) -> None:
        with pytest.raises(error, match=message):
            RegionDescriptors(image, regions(), vectors)

    def test_json_round_trip_is_exact(self) -> None:
        vectors = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        found = RegionDescriptors.from_json(through_json(RegionDescriptors("a.jpg", regions(), vectors, {"x": None})))
        assert torch.equal(torch.as_tensor(found.vectors), vectors)
        assert_same(found.regions, regions())
        assert (found.image, dict(found.metadata)) == ("a.jpg", {"x": None})
        scalars = {**through_json(self.described()), "vectors": {"dtype": "scalars", "values": [1, 2, 3]}}
        with pytest.raises(ValueError, match="expected an array, found scalars"):
            RegionDescriptors.from_json(scalars)

    def test_no_regions_keep_their_dimension(self) -> None:
        empty = RegionDescriptors("a.jpg", Regions.empty(SIZE), torch.zeros(0, 8))
        assert (len(empty), empty.dim) == (0, 8)
        assert RegionDescriptors.from_json(through_json(empty)).vectors.shape == (0, 8)


def match(image: str = "a.jpg", score: float = 0.5, **changes: Any) -> Match:
    return Match(**{"image": image, "score": score, "box": (0, 0, 1, 1), "query_box": (0, 0, 2, 2), **changes})


class TestMatch:
    def test_json_round_trip(self) -> None:
        found = match(label="cup", metadata={"price": 3}, runners_up=(match(score=0.4),))
        assert set(found.to_json()) == {
            "image",
            "score",
            "p_false",
            "box",
            "view",
            "query_box",
            "label",
            "metadata",
            "runners_up",
        }
        assert Match.from_json(through_json(found)) == found

    def test_json_has_no_number_that_json_lacks(self) -> None:
        found = match(metadata={"price": float("nan"), "size": float("inf"), "code": 3})
        assert through_json(found)["metadata"] == {"price": None, "size": None, "code": 3}

    def test_a_label_is_a_name(self) -> None:
        with pytest.raises(TypeError, match=r"Match\.label: expected a string or None, found 3"):
            match(label=3)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image": ""}, "Match.image: expected a non-empty string"),
            ({"score": float("nan")}, "Match.score: expected a finite number, found nan"),
            ({"score": float("-inf")}, "Match.score: expected a finite number, found -inf"),
            ({"box": (2, 0, 1, 1)}, r"Match.box: expected \(x1, y1, x2, y2\)"),
            ({"box": (0, 0, 1)}, r"Match.box: expected .*, found \(0, 0, 1\)"),
            ({"query_box": (0, 0, 1, float("inf"))}, "Match.query_box: expected"),
            ({"view": -1}, "Match.view: expected an integer of 0 or more"),
            ({"runners_up": (match(score=0.6),)}, "Match.runners_up: expected scores of at most 0.5"),
        ],
    )
    def test_is_checked(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            match(**changes)


class TestSearchResult:
    def test_is_a_sequence_and_survives_json(self) -> None:
        found = SearchResult("q.jpg", ((0, 0, 2, 2),), (match("a", 0.9), match("b", 0.9), match("c", 0.1)))
        assert len(found) == 3
        assert found[1].image == "b"
        assert [hit.image for hit in found] == ["a", "b", "c"]
        data = through_json(found)
        assert data["query"] == {"image": "q.jpg", "boxes": [[0, 0, 2, 2]], "more_views": [], "unlike": []}
        assert SearchResult.from_json(data) == found
        views = SearchResult(
            "q.jpg",
            ((0, 0, 2, 2),),
            (match("a", 0.9, view=1),),
            more_views=(QueryView("r.jpg", ((0, 0, 1, 1),)),),
            unlike=(QueryView("s.jpg", ()),),
        )
        assert SearchResult.from_json(through_json(views)) == views
        assert [view.image for view in views.views] == ["q.jpg", "r.jpg"]
        assert len(SearchResult("q.jpg", (), ())) == 0

    @pytest.mark.parametrize(
        ("hits", "message"),
        [
            ((match("a", 0.1), match("b", 0.2)), "expected scores in descending order"),
            ((match("a", 0.2), match("a", 0.1)), "expected each image at most once"),
            ((match("a", view=1),), "expected views below 1, found a hit of another"),
        ],
    )
    def test_is_checked(self, hits: tuple[Match, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SearchResult("q.jpg", (), hits)
        with pytest.raises(ValueError, match=r"SearchResult\.query_image: expected a non-empty string, found ''"):
            SearchResult("", (), ())
        with pytest.raises(ValueError, match=r"SearchResult\.hits: expected none of a skipped query, found 1"):
            SearchResult("q.jpg", (), (match("a"),), skipped="broken")


def results() -> list[Any]:
    regions = Regions(torch.tensor([[0.0, 0.0, 5.0, 5.0]]), (10, 10), extras={"mask": torch.ones(1, 2), "id": ("a",)})
    hit = match(metadata={"price": 3}, runners_up=(match(score=0.4, metadata={"price": 3}),))
    return [
        regions,
        RegionDescriptors("a.jpg", regions, torch.tensor([[1.0, 0.0]]), {"x": None}),
        hit,
        SearchResult("q.jpg", ((0.0, 0.0, 1.0, 1.0),), (hit,)),
        Photo("a", torch.zeros(3, 4, 5, dtype=torch.uint8), (4, 5), {"price": 1.5}),
    ]


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "multiprocessing": lambda one: ForkingPickler.loads(ForkingPickler.dumps(one)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("way", WAYS)
def test_results_travel(way: str) -> None:
    """To workers of multiprocessing, joblib and Ray, and into caches."""
    for one in results():
        found = WAYS[way](one)
        assert type(found) is type(one)
        if isinstance(one, Photo):
            assert torch.equal(torch.as_tensor(found.pixels), torch.as_tensor(one.pixels))
        else:
            assert found.to_json() == one.to_json()
        for name in ("metadata", "extras"):
            if hasattr(found, name):
                with pytest.raises(TypeError, match="read-only"):
                    getattr(found, name)["new"] = 1


def test_a_read_only_dict_refuses_every_change_and_reads_like_a_dict() -> None:
    mapping = ReadOnlyDict({"a": 1})
    changes = [
        lambda: mapping.__setitem__("a", 2),
        lambda: mapping.__delitem__("a"),
        lambda: mapping.update(a=2),
        lambda: mapping.setdefault("b", 2),
        lambda: mapping.pop("a"),
        mapping.popitem,
        mapping.clear,
        lambda: mapping.__ior__({"b": 2}),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="read-only"):
            change()
    assert mapping == {"a": 1}
    assert json.dumps(mapping) == '{"a": 1}'
    assert type(mapping.copy()) is dict
    assert mapping | {"b": 2} == {"a": 1, "b": 2}


def test_hits_made_when_asked_for_equal_a_tuple_of_them() -> None:
    hits = [Match(name, score, (0, 0, 1, 1), (0, 0, 2, 2)) for name, score in (("a", 0.9), ("b", 0.7), ("c", 0.4))]
    made: list[int] = []

    def make(position: int) -> Match:
        made.append(position)
        return hits[position]

    result = SearchResult("q", (), LazyHits([hit.image for hit in hits], make))
    kept = result.without({"b"})
    assert list(result.images) == ["a", "b", "c"]
    assert list(kept.images) == ["a", "c"]
    assert not made
    assert kept[-1] == hits[2]
    assert made == [2]
    assert list(result.hits[1:]) == hits[1:]
    assert made == [2, 1]
    assert result == SearchResult("q", (), tuple(hits))
    assert sorted(made) == [0, 1, 2]
    assert result.without({"z"}) is result
    assert pickle.loads(pickle.dumps(kept)) == SearchResult("q", (), (hits[0], hits[2]))
    with pytest.raises(IndexError):
        _ = result[3]


def test_a_result_without_some_images() -> None:
    hits = tuple(Match(name, score, (0, 0, 1, 1), (0, 0, 2, 2)) for name, score in (("a", 0.9), ("b", 0.7)))
    result = SearchResult("q", (), hits)
    assert result.without(["a"]) == SearchResult("q", (), hits[1:])
    assert result.without([]) is result
    assert not result.without(["a", "b"]).hits


def test_interleaved_pixels_of_a_photo_and_of_a_part() -> None:
    photo = Photo("a", np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8), (10, 14))
    part = photo.part(Regions(np.array([[4.0, 2, 10, 8]], np.float32), (10, 14)))
    for one in (photo, part):
        turned = one.interleaved()
        np.testing.assert_array_equal(turned, one.pixels.transpose(1, 2, 0))
        assert turned.flags.c_contiguous
    assert part.pixels.shape == (3, 3, 3)
