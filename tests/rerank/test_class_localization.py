from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objemb.describers.class_weighted import ClassWeighted
from objemb.extractors.map import Map
from objemb.ops.components import largest_component
from objemb.ops.tensors import l2
from objemb.rerank.class_localization import ClassLocalization
from objemb.structures import Photo, Regions
from tests.describers.test_class_weighted import describer as made
from tests.rerank.looking import blobs, photo, searched
from tests.rerank.made import names, scores
from tests.rerank.test_region_rerank import describer as pooled

MINIMAL = {"top": 3, "mixed": 1}
NEEDS_PHOTOS = True
DESCRIBER = "class_weighted"

PHOTOS = [photo(blobs(n), str(n)) for n in (1, 2, 3)]
BOX = (10, 20, 120, 150)


@pytest.fixture(scope="module")
def describer() -> ClassWeighted:
    """It sees photos of 160 pixels at 64, as 8 x 8 cells."""
    return made()


def boxes_of(describer: ClassWeighted, found: Photo, classes: list[int], smallest: int) -> Tensor:
    """The boxes that are tried in a hit, cell by cell; the whole photo where none is large enough."""
    (seen,) = describer.class_maps([found], [classes])
    heat = (seen.maps[0] + seen.maps[1]) / 2
    boxes = []
    for share in (0.01, 0.1, 0.2, 0.3, 0.4):
        ys, xs = torch.nonzero(largest_component((heat > share * heat.max())[None])[0], as_tuple=True)
        x1, y1, x2, y2 = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
        if x2 - x1 >= smallest and y2 - y1 >= smallest:
            boxes.append([20.0 * x1, 20.0 * y1, 20.0 * x2, 20.0 * y2])
    return torch.tensor(boxes or [[0.0, 0, 160, 160]])


def likely_classes(describer: ClassWeighted) -> list[int]:
    """Of the box of the query, 130 of 160 pixels high, which therefore enters the network at 130 / 160 of 64 pixels."""
    cut = PHOTOS[0].part(Regions(torch.tensor([[float(v) for v in BOX]]), PHOTOS[0].size))
    other = made(backbone=describer.backbone)
    other.extractor = Map(size=52)
    (likely,) = other.class_maps([cut])
    return likely.classes[:6].tolist()


@pytest.mark.parametrize("smallest", [1, 5, 8, 9])
def test_against_a_slow_reference(describer: ClassWeighted, smallest: int) -> None:
    before = searched(describer, PHOTOS[0], BOX, PHOTOS)
    region = Regions(torch.tensor([[float(v) for v in BOX]]), PHOTOS[0].size)
    classes = likely_classes(describer)
    asked = describer.describe_as(PHOTOS[0], region, classes)[0]
    after = ClassLocalization(mixed=0, smallest=smallest).rerank(before)
    assert sorted(names(after)) == ["1", "2", "3"]
    for hit in after.results[0]:
        found = PHOTOS[int(hit.image) - 1]
        boxes = boxes_of(describer, found, classes[:2], smallest)
        similar = describer.describe_as(found, Regions(boxes, found.size), classes) @ asked
        assert hit.score == pytest.approx(float(similar.max()), abs=1e-5)
        assert hit.box == tuple(boxes[int(similar.argmax())].tolist())
        assert hit.query_box == tuple(float(v) for v in BOX)
    assert scores(after) == sorted(scores(after), reverse=True)


def test_the_best_boxes_are_mixed_into_the_query(describer: ClassWeighted) -> None:
    before = searched(describer, PHOTOS[0], BOX, PHOTOS)
    region = Regions(torch.tensor([[float(v) for v in BOX]]), PHOTOS[0].size)
    classes = likely_classes(describer)
    plain, mixed = (ClassLocalization(mixed=n).rerank(before) for n in (0, 2))
    vectors = {
        hit.image: describer.describe_as(
            PHOTOS[int(hit.image) - 1], Regions(torch.tensor([hit.box]), (160, 160)), classes
        )[0]
        for hit in plain.results[0]
    }
    asked = describer.describe_as(PHOTOS[0], region, classes)[0]
    query = l2(torch.stack([asked, *(vectors[name] for name in names(plain)[:2])]).mean(dim=0, keepdim=True))[0]
    wanted = sorted(((float(v @ query), name) for name, v in vectors.items()), reverse=True)
    assert [(pytest.approx(s, abs=1e-5), n) for s, n in wanted] == list(zip(scores(mixed), names(mixed), strict=True))


def test_it_needs_class_maps() -> None:
    with pytest.raises(TypeError, match="class_localization: expected class_weighted, found PooledRegions"):
        ClassLocalization().rerank(searched(pooled(), PHOTOS[0], (0, 0, 9, 9), PHOTOS))
    with pytest.raises(ValueError, match="thresholds"):
        ClassLocalization(thresholds=[2.0])
    with pytest.raises(ValueError, match=r"averaged: expected at most the number of classes \(2\), found 3"):
        ClassLocalization(classes=2, averaged=3)
    with pytest.raises(ValueError, match="smallest"):
        ClassLocalization(smallest=0)
