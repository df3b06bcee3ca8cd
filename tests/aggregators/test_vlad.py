from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from objemb.aggregators.vlad import Vlad
from objemb.structures import RegionFeatures
from tests import slow_words as slow
from tests.aggregators.test_asmk import CENTRES, INDEXED, QUERY, described, random_image

pytest.importorskip("faiss")

MINIMAL = {"words": 5}


def learned(centres: np.ndarray, **settings: Any) -> Vlad:
    aggregator = Vlad(words=len(centres), **settings)
    aggregator.connect(centres.shape[1])
    aggregator.codebook.centres.copy_(torch.from_numpy(centres))
    aggregator.codebook.count.fill_(1)
    return aggregator


def test_the_vector_of_detect_to_retrieve_by_hand() -> None:
    found = learned(CENTRES, form="regional", unit=False).aggregate(INDEXED)
    assert (found.image, found.metadata) == ("photo", {"price": 3})
    assert found.regions.boxes.tolist() == [[0, 0, 100, 100]]
    np.testing.assert_allclose(found.vectors, [[0.412589, 0.825178, -0.188982, 0.188982]], atol=1e-6)
    image = learned(CENTRES).aggregate(INDEXED)
    np.testing.assert_allclose(image.vectors, [[0.377964, 0.755929, -0.377964, 0.377964]], atol=1e-6)
    items = learned(CENTRES, form="items").aggregate(INDEXED)
    np.testing.assert_allclose(items.vectors[1], [0.447214, 0.894427, 0, 0], atol=1e-6)
    query = learned(CENTRES, form="regional").aggregate_query(QUERY)
    np.testing.assert_allclose(query.vectors, np.array([[2, 1, 1, 1]]) / 7**0.5, atol=1e-6)


def test_length_of_the_vectors() -> None:
    assert learned(CENTRES).dim == 4
    assert learned(CENTRES, form="items").per_region
    assert not learned(CENTRES, form="regional").per_region


def test_boxes_that_were_given_are_an_image_together() -> None:
    """A feature in two boxes counts once for the image, and in both of them for the mean."""
    given = described(np.array([[1, 2], [9, 1]]), [(0, 0), (1, 0), (1, 1)], 2, whole=False)
    (image,) = learned(CENTRES, unit=False).aggregate(given).vectors
    assert image.tolist() == [1, 2, -1, 1]
    found = learned(CENTRES, form="regional", unit=False, region_normalised=False).aggregate(given)
    assert found.vectors.tolist() == [[1, 2, -0.5, 0.5]]
    assert found.regions.boxes.tolist() == [[0, 0, 95.25, 95.25]]


def wanted(image: RegionFeatures, centres: np.ndarray, form: str) -> list[slow.Blocks]:
    blocks = [
        slow.unit(slow.vlad_blocks(image.features.vectors[image.of_region(r)].tolist(), centres.tolist()))
        for r in range(len(image))
    ]
    return blocks[:1] if form == "image" else [slow.mean(blocks)] if form == "regional" and blocks else blocks


def flat(blocks: slow.Blocks, centres: np.ndarray) -> np.ndarray:
    vector = np.zeros(centres.shape)
    for k, block in blocks.items():
        vector[k] = block
    return vector.ravel()


def at_unit_length(vector: np.ndarray) -> np.ndarray:
    return vector / max(1e-12, float(np.linalg.norm(vector)))


@pytest.mark.parametrize("form", ["image", "regional", "items"])
@pytest.mark.parametrize("unit", [True, False])
def test_against_the_equations(form: str, unit: bool) -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        dim, words = (int(n) for n in rng.integers([1, 2], [7, 6]))
        centres = rng.standard_normal((words, dim)).astype(np.float32)
        image = random_image(rng, dim)
        aggregator = learned(centres, form=form, unit=unit)
        found = aggregator.aggregate(image)
        rows = wanted(image, centres, form)
        assert len(found) == len(rows)
        query = aggregator.aggregate_query(image)
        assert len(query) == len(image)
        exact = unit or form == "regional"
        for vector, blocks in zip(found.vectors, rows, strict=True):
            np.testing.assert_allclose(
                vector if exact else at_unit_length(vector),
                flat(slow.unit(blocks) if unit else blocks, centres),
                atol=1e-6,
            )
        for vector, blocks in zip(query.vectors, wanted(image, centres, "items"), strict=True):
            np.testing.assert_allclose(vector if unit else at_unit_length(vector), flat(blocks, centres), atol=1e-6)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="unit: expected true or false"):
        Vlad(unit="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="region_normalised: expected true or false"):
        Vlad(region_normalised=1)  # type: ignore[arg-type]
