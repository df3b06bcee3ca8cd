"""Every aggregator keeps to its contract: of vectors, or of local features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from objemb import registry
from objemb.aggregators.base import Aggregator, FeatureAggregator
from objemb.checks import NotFittedError
from objemb.ops.grid import pixel_grid
from objemb.regions.rmac_grid import RmacGrid
from objemb.structures import LocalFeatures, RegionDescriptors, RegionFeatures, Regions, VisualWords
from tests.contracts.made import GIVEN, PHOTOS, build, every, in_frame, minimal, unit_or_zero

ALL = [n for n in registry.names("aggregators") if registry.origin("aggregators", n) is None]
OF_FEATURES = [n for n in ALL if issubclass(registry.load("aggregators", n), FeatureAggregator)]


@every("aggregators")
def test_every_aggregator_has_one_of_the_contracts(name: str) -> None:
    loaded = registry.load("aggregators", name)
    assert issubclass(loaded, Aggregator) != issubclass(loaded, FeatureAggregator)


@pytest.mark.parametrize("name", [n for n in ALL if n not in OF_FEATURES])
class TestAggregators:
    def test_rows(self, name: str, tmp_path: Path) -> None:
        aggregator = build("aggregators", name, tmp_path)
        vectors = torch.nn.functional.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
        grids = [pixel_grid(p.size) for p in PHOTOS]
        for photo, whole_and_grid, given in zip(PHOTOS, RmacGrid(levels=1).find(PHOTOS, grids), GIVEN, strict=True):
            for regions in (whole_and_grid[:6], given, given[:1], given[:0]):
                for scale in (1, 0):
                    rows = vectors[: len(regions)] * scale
                    described = RegionDescriptors(photo.id, regions, rows, photo.metadata)
                    found = aggregator.aggregate(described)
                    assert (found.image, found.metadata) == (photo.id, photo.metadata)
                    assert len(found) <= len(regions)
                    assert (len(found) == 0) == (len(regions) == 0), "an image stays searchable"
                    assert in_frame(found.regions, photo)
                    assert found.dim == 5
                    assert found.vectors.dtype == np.float32
                    assert unit_or_zero(found.vectors)


def random_features(size: tuple[int, int], count: int, seed: int) -> LocalFeatures:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, [size[1], size[0]], (count, 2)).astype(np.float32)
    return LocalFeatures(size, points, rng.standard_normal((count, 4)).astype(np.float32))


@pytest.mark.parametrize("name", OF_FEATURES)
class TestFeatureAggregators:
    def test_rows(self, name: str, tmp_path: Path) -> None:
        aggregator: FeatureAggregator = build("aggregators", name, tmp_path)
        grids = [pixel_grid(p.size) for p in PHOTOS]
        for photo, whole_and_grid, given in zip(PHOTOS, RmacGrid(levels=1).find(PHOTOS, grids), GIVEN, strict=True):
            for regions in (whole_and_grid[:6], given, given[:1], given[:0]):
                for count in (30, 1, 0):
                    features = random_features(photo.size, count, seed=count)
                    described = RegionFeatures.by_position(photo.id, regions, features, photo.metadata)
                    rows = aggregator.aggregate(described)
                    query = aggregator.aggregate_query(described)
                    assert len(query) == len(regions), "a row for each region to search with"
                    assert (len(rows) == 0) == (len(regions) == 0), "an image stays searchable"
                    for found in (rows, query):
                        assert type(found) is aggregator.gives
                        assert (found.image, found.metadata) == (photo.id, photo.metadata)
                        assert in_frame(found.regions, photo)
                        assert found.dim == aggregator.dim
                        if isinstance(found, RegionDescriptors):
                            assert found.vectors.dtype == np.float32
                            assert unit_or_zero(found.vectors)

    def test_an_image_is_most_like_itself(self, name: str, tmp_path: Path) -> None:
        aggregator: FeatureAggregator = build("aggregators", name, tmp_path)
        whole = Regions.whole((60, 80))
        images = [RegionFeatures.by_position(str(n), whole, random_features(whole.size, 20, seed=n)) for n in range(3)]
        scores = np.array([[_score(aggregator, one, other) for other in images] for one in images])
        assert scores.argmax(axis=1).tolist() == [0, 1, 2]

    def test_parts_have_to_learn(self, name: str, tmp_path: Path) -> None:
        aggregator: FeatureAggregator = build("aggregators", name, tmp_path)
        parts = aggregator.fitted_parts()
        assert parts
        image = RegionFeatures.by_position("a", Regions.whole((60, 80)), random_features((60, 80), 20, seed=0))
        for part_name, part in parts.items():
            assert aggregator.samples(part_name, []).shape == (0, aggregator.samples(part_name, [image]).shape[1])
            part.count.zero_()
            with pytest.raises(NotFittedError, match="expected a fitted part"):
                aggregator.aggregate(image)
            part.count.fill_(1)
        with pytest.raises(NotImplementedError, match="'nothing'"):
            aggregator.samples("nothing", [image])

    def test_the_state_is_all_there_is_to_save(self, name: str, tmp_path: Path) -> None:
        aggregator: FeatureAggregator = build("aggregators", name, tmp_path)
        other: FeatureAggregator = registry.build(FeatureAggregator, minimal("aggregators", name, tmp_path))
        other.connect(4)
        other.load_state_dict(aggregator.state_dict())
        image = RegionFeatures.by_position("a", Regions.whole((60, 80)), random_features((60, 80), 20, seed=0))
        assert _score(other, image, image) == _score(aggregator, image, image)


def _score(aggregator: FeatureAggregator, first: RegionFeatures, second: RegionFeatures) -> float:
    """The inner product of two vectors; of visual words, that of their residuals, summed up over common words."""
    x, y = aggregator.aggregate_query(first), aggregator.aggregate(second)
    if isinstance(x, RegionDescriptors) and isinstance(y, RegionDescriptors):
        return float(x.vectors[0] @ y.vectors[0])
    assert isinstance(x, VisualWords)
    assert isinstance(y, VisualWords)
    total = 0.0
    for m, n in np.argwhere(x.words[:, None] == y.words):
        u, v = (
            np.unpackbits(w.residuals[k], count=w.dim) * 2.0 - 1 if w.binary else w.residuals[k]
            for w, k in ((x, m), (y, n))
        )
        total += float(u @ v)
    return total * float(x.scales[0] * y.scales[0])
