from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from objemb.aggregators.keep import Keep
from objemb.aggregators.sum import Sum
from objemb.datasets.evaluation_set import EvaluationSet, SetEntry, read_evaluation_set
from objemb.evaluation.described import aggregated, describe_entries, describe_images
from objemb.structures import Photo, RegionDescriptors
from tests.evaluation.colours import LEFT, RIGHT, ColourModel, Patches, write_set


@pytest.fixture
def data(tmp_path: Path) -> EvaluationSet:
    return read_evaluation_set(write_set(tmp_path))


def test_images_are_described_as_they_would_be_indexed(data: EvaluationSet) -> None:
    whole, problems = describe_images(ColourModel(), data, data.images)
    assert whole.items.tolist() == [0, 1, 2]
    assert whole.boxes.tolist() == [[0, 0, 40, 20]] * 3
    with_boxes, problems = describe_images(ColourModel(), data, data.images, boxes=Patches())
    assert with_boxes.items.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert (with_boxes.vectors.dtype, with_boxes.vectors.shape) == (np.float32, (9, 3))
    assert problems == []


def test_broken_photos_are_recorded_and_leave_no_rows(data: EvaluationSet) -> None:
    data.photo("a.png").write_bytes(b"not an image")
    data.photo("c.png").unlink()
    found, problems = describe_images(ColourModel(), data, data.images)
    assert found.items.tolist() == [1]
    assert [p.partition(":")[0] for p in problems] == ["a.png", "c.png"]
    objects, problems = describe_entries(ColourModel(), data, data.objects)
    assert objects.items.tolist() == [2, 3]
    assert [p.partition(":")[0] for p in problems] == ["a.png", "c.png"]


def test_entries_of_a_photo_are_described_together_and_once(data: EvaluationSet) -> None:
    model = ColourModel()
    entries = [
        SetEntry("a.png", ("x",), LEFT),
        SetEntry("b.png", ("x",), None),
        SetEntry("a.png", ("y",), RIGHT),
        SetEntry("a.png", ("z",), LEFT),
        SetEntry("b.png", ("x",), RIGHT),
    ]
    found, _ = describe_entries(model, data, entries, crop="scaled")
    assert found.items.tolist() == [0, 1, 2, 3, 4]
    assert found.boxes.tolist() == [list(LEFT), [0, 0, 40, 20], list(RIGHT), list(LEFT), list(RIGHT)]
    np.testing.assert_array_equal(found.vectors[0], found.vectors[3])
    assert np.argmax(found.vectors, axis=1).tolist()[:1] == [0]
    assert model.queried == [("a.png", 2, "scaled"), ("b.png", 1, "scaled"), ("b.png", "whole", "scaled")]


@pytest.mark.parametrize(
    ("unboxed", "boxes"),
    [
        ("whole", [(0, 0, 40, 20)]),
        ("detector", [(0, 0, 8, 20), RIGHT]),
        ("both", [(0, 0, 40, 20), (0, 0, 8, 20), RIGHT]),
    ],
)
def test_what_becomes_of_an_entry_without_a_box(
    data: EvaluationSet, unboxed: str, boxes: list[tuple[int, ...]]
) -> None:
    model = ColourModel()
    entries = [SetEntry("a.png", ("x",), LEFT), SetEntry("b.png", ("x",), None), SetEntry("c.png", ("x",), RIGHT)]
    found, _ = describe_entries(model, data, entries, crop="scaled", unboxed=unboxed)
    assert found.items.tolist() == [0, *([1] * len(boxes)), 2]
    assert found.boxes.tolist() == [list(LEFT), *map(list, boxes), list(RIGHT)]
    assert model.queried[1] == ("b.png", unboxed, "scaled")
    assert found.descriptors(1).vectors.shape == (len(boxes), 3)


def test_photos_are_decoded_as_their_boxes_are_seen(data: EvaluationSet) -> None:
    class Small(ColourModel):
        decode_side = 20  # type: ignore[assignment]

        def query_side(self, crop: str) -> int | None:
            return None if crop == "crop" else self.decode_side

        def query(self, image: Photo, boxes: object = None, *, crop: str = "context") -> RegionDescriptors:
            seen.append(tuple(image.pixels.shape[1:]))
            return super().query(image, boxes, crop=crop)  # type: ignore[arg-type]

    seen: list[tuple[int, ...]] = []
    Image.new("RGB", (160, 80), "red").save(data.photo("large.jpg"))
    for box, crop in ((None, "crop"), (LEFT, "context"), (LEFT, "crop")):
        describe_entries(Small(), data, [SetEntry("large.jpg", ("x",), box)], crop=crop)
    describe_entries(Small(), data, [SetEntry("large.jpg", ("x",), None)], crop="crop", unboxed="both")
    assert seen == [(20, 40), (20, 40), (80, 160), (80, 160)]


def test_a_box_outside_its_photo_does_not_stop_the_others(data: EvaluationSet) -> None:
    found, problems = describe_entries(
        ColourModel(), data, [SetEntry("a.png", ("x",), (0, 0, 40, 21)), SetEntry("a.png", ("x",), LEFT)]
    )
    assert found.items.tolist() == [1]
    assert problems == ["a.png: expected boxes inside 40 x 20 pixels, found (0, 0, 40, 21)"]


def test_a_photo_that_cannot_be_described_does_not_stop_the_others(data: EvaluationSet) -> None:
    class Failing(ColourModel):
        def query(self, image: Photo, boxes: object = None, *, crop: str = "context") -> RegionDescriptors:
            if image.id == "a.png":
                raise RuntimeError("too large")
            return super().query(image, boxes, crop=crop)  # type: ignore[arg-type]

    found, problems = describe_entries(Failing(), data, data.images)
    assert found.items.tolist() == [1, 2]
    assert problems == ["a.png: cannot be described: too large"]


def test_regions_become_one_row_an_image(data: EvaluationSet) -> None:
    regions, _ = describe_images(ColourModel(), data, data.images, boxes=Patches())
    data.photo("b.png").unlink()
    fewer, _ = describe_images(ColourModel(), data, data.images, boxes=Patches())
    for rows, items in ((regions, [0, 1, 2]), (fewer, [0, 2])):
        summed = aggregated(rows, Sum())
        assert summed.images == rows.images
        assert summed.items.tolist() == items
        for number, vector in zip(items, summed.vectors, strict=True):
            of_image = rows.vectors[rows.items == number]
            total = of_image[1:].sum(axis=0)  # without the whole image, which is region 0
            np.testing.assert_allclose(vector, total / np.linalg.norm(total), rtol=1e-6)
        np.testing.assert_array_equal(aggregated(rows, Keep()).vectors, rows.vectors)
