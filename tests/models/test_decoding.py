"""The same photo gives the same vector however it is handed in, and nearly that of its full resolution."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from objemb.images import read_photo
from objemb.models import Model, build_model
from tests.models.conftest import BACKBONE, RMAC

#: One row a region, seen on a map of the photo.
REGIONS: dict[str, Any] = {
    "describer": {
        "name": "pooled_regions",
        "regions": {"name": "detections"},
        "backbone": BACKBONE,
        "extractor": {"name": "map", "size": 96},
        "pooling": {"name": "gem"},
    },
    "aggregator": {"name": "keep"},
}
#: ``(height, width)``: four times the size at which the models look at photos, and more.
SIZE = (600, 800)
WHOLE, PART = (0.0, 0.0, 800.0, 600.0), (400.0, 100.0, 600.0, 300.0)


@pytest.fixture(scope="module", params=["regions", "rmac"])
def seer(request: pytest.FixtureRequest) -> Model:
    """A model with one row a region, and one with one row a photo that looks at it at a size below a quarter of it."""
    settings = {"regions": REGIONS, "rmac": RMAC}[request.param]
    return build_model(settings)


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo with fine texture, turned by its EXIF."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((50, 50, 1)))
    pixels = np.clip(coarse + rng.normal(0, 40, (*SIZE, 3)), 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3
    path = tmp_path_factory.mktemp("decoding") / "photo.jpg"
    Image.fromarray(pixels).save(path, quality=95, exif=exif)
    return path


def _indexed(model: Model, path: Path) -> torch.Tensor:
    described = next(iter(model.stream(path, on_skip=lambda skipped: pytest.fail(skipped.reason))))
    return torch.as_tensor(described.vectors[:1])


def test_the_row_of_an_index_is_what_the_photo_and_a_box_of_all_of_it_search_for(seer: Model, jpeg: Path) -> None:
    expected = _indexed(seer, jpeg)
    with Image.open(jpeg) as opened:
        pictures = [jpeg, str(jpeg), jpeg.read_bytes(), opened]
        for picture in pictures:
            assert torch.equal(torch.as_tensor(seer.describe(picture).vectors)[:1], expected)
            assert torch.equal(torch.as_tensor(seer.query(picture).vectors), expected)
            for crop in ("context", "crop", "scaled", "whole"):
                found = torch.as_tensor(seer.query(picture, [WHOLE], crop=crop).vectors)
                torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_decoder_scales_down_where_a_part_is_not_looked_at_alone(seer: Model, jpeg: Path) -> None:
    decoded = read_photo(jpeg, side=seer.decode_side)
    assert max(decoded.scale) <= 0.5
    in_full = read_photo(jpeg)
    for crop in ("context", "crop", "scaled", "whole"):
        pixels = decoded if seer.query_side(crop) is not None else in_full
        assert torch.equal(
            torch.as_tensor(seer.query(jpeg, [PART], crop=crop).vectors),
            torch.as_tensor(seer.query(pixels, [PART], crop=crop).vectors),
        )
    assert (seer.query_side("crop"), seer.query_side("whole")) == (None, seer.decode_side)


def test_scaling_down_in_the_decoder_hardly_changes_a_vector(seer: Model, jpeg: Path) -> None:
    in_full = torch.as_tensor(seer.describe(read_photo(jpeg)).vectors[:1])
    assert float((_indexed(seer, jpeg) * in_full).sum()) > 0.998


def test_a_jpeg_that_pillow_has_decoded_or_changed_is_taken_as_it_is(seer: Model, jpeg: Path) -> None:
    loaded, drafted = Image.open(jpeg), Image.open(jpeg)
    loaded.load()
    drafted.draft("L", (100, 75))
    assert torch.equal(
        torch.as_tensor(seer.describe(loaded).vectors), torch.as_tensor(seer.describe(read_photo(jpeg)).vectors)
    )
    assert seer.describe(drafted).regions.size == (75, 100)
    stream = io.BytesIO(jpeg.read_bytes())
    opened = Image.open(stream)
    seer.describe(opened)
    assert np.asarray(opened).shape == (600, 800, 3), "the image stays usable"
