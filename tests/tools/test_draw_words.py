"""The program `tools/draw_words.py`: what is compared, and its errors."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from objemb.index.store import Index
from objemb.models import build_model, fit_parts
from objemb.models.row_schema import row_schema
from objemb.search.indexing import Job
from objemb.search.retrieval import Retrieval
from tests.search.test_words import noise
from tests.tiny import random_photo

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "draw_words.py"))


def retrieval_of(folder: Path, positions: bool) -> Retrieval:
    """Of SIFT features of three photos; the lower right quarter of ``1.png`` is the upper left one of ``query.png``."""
    photos = folder / "photos"
    photos.mkdir()
    pictures, query = [noise(n, 160) for n in range(3)], noise(7, 160)
    pictures[1][80:, 80:] = query[:80, :80]
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(photos / f"{number}.png")
    Image.fromarray(query).save(folder / "query.png")
    aggregator = {"name": "asmk", "words": 16, "positions": positions}
    describer = {"name": "local", "local_features": {"name": "sift", "size": 160, "count": 400}}
    model = fit_parts(build_model({"describer": describer, "aggregator": aggregator}), [photos])
    schema = row_schema(model)
    index = Index.create(folder / "index", schema=schema, fingerprint=model.fingerprint, model=model.about)
    Job(index, model, [photos]).run()
    return Retrieval(model, index)


def test_what_is_compared(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    retrieval = retrieval_of(tmp_path, positions=True)
    compared = TOOL["compare"](retrieval, tmp_path / "query.png", (0.0, 0.0, 80.0, 80.0))
    assert compared.hit.image == "1.png"
    assert (compared.query_features.points[compared.inside] <= 80).all()
    assert len(compared.agreeing) >= 8
    moved = (
        compared.match_features.points[compared.agreeing[:, 1]]
        - compared.query_features.points[compared.agreeing[:, 0]]
    )
    assert np.abs(moved - 80).max() < 10
    assert compared.scores.shape == (1,)


def test_an_index_without_places_is_refused(tmp_path: Path) -> None:
    retrieval = retrieval_of(tmp_path, positions=False)
    with pytest.raises(
        ValueError, match="INDEX: expected visual words with the positions of local features, found Word"
    ):
        TOOL["compare"](retrieval, tmp_path / "query.png", (0.0, 0.0, 80.0, 80.0))


def test_a_patch_at_the_edge_repeats_its_last_pixels() -> None:
    photo = random_photo(40, 60)
    patch = TOOL["_patch"](photo, np.array([0.0, 39.0], np.float32))
    assert patch.shape == (64, 64, 3)
    assert (patch[-1, 0] == photo.pixels[:, 39, 0]).all()
    assert (patch[:, :32] == patch[:, :1]).all()
    assert (patch[0, -1] == photo.pixels[:, 23, 15]).all()
