from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from objemb.datasets.evaluation_set import EvaluationSet, read_evaluation_set
from objemb.detectors.capabilities import DetectorPass
from objemb.evaluation.described import DescribedTask
from objemb.evaluation.feature_cache import FOLDER, with_feature_cache
from objemb.evaluation.retrieval_task import RetrievalTask, make_task
from objemb.evaluation.task_describer import BoxSource, TaskDescriber
from objemb.local_features.dense import Dense
from objemb.models import Model, build_model, fit_parts
from objemb.structures import ImageRows, ImageWords, LocalFeatures, Photo
from tests.models.conftest import BACKBONE, SETTINGS
from tests.tiny import random_photo

LOCAL: dict[str, Any] = {
    "name": "local",
    "local_features": {
        "name": "dense",
        "backbone": {**BACKBONE, "layer": "features.1"},
        "size": 48,
        "scales": [1.0, 0.5],
        "count": 60,
        "dim": 8,
    },
    "regions": {"name": "rmac_grid", "levels": 2},
}
AGGREGATORS: dict[str, dict[str, Any]] = {
    "asmk": {"name": "asmk", "words": 8, "positions": True},
    "r_asmk": {"name": "asmk", "words": 8, "form": "regional", "binary": False},
    "vlad": {"name": "vlad", "words": 4},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    for seed, name in enumerate(("a", "b", "c", "q")):
        Image.fromarray(np.asarray(random_photo(40, 48, seed=seed).pixels).transpose(1, 2, 0)).save(
            folder / f"{name}.png"
        )
    described = {
        "images": [{"file": f"{name}.png", "instances": ["cup"]} for name in "abc"],
        "objects": [{"file": "a.png", "instance": "cup", "box": [0, 0, 20, 20]}],
        "queries": [
            {"file": "q.png", "instance": "cup", "box": None},
            {"file": "a.png", "instance": "cup", "box": [4, 4, 40, 36]},
        ],
    }
    (folder / "set.json").write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> EvaluationSet:
    return read_evaluation_set(folder / "set.json")


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, Model]:
    def fitted(aggregator: dict[str, Any]) -> Model:
        torch.manual_seed(0)
        return fit_parts(build_model({"describer": LOCAL, "aggregator": aggregator}), [folder])

    return {name: fitted(aggregator) for name, aggregator in AGGREGATORS.items()}


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the photos whose features have been computed."""
    ids: list[str] = []
    real = Dense._extract

    def counting(self: Dense, photos: Sequence[Photo], seen: DetectorPass | None) -> list[LocalFeatures]:
        ids.extend(photo.id for photo in photos)
        return real(self, photos, seen)

    monkeypatch.setattr(Dense, "_extract", counting)
    return ids


def describe(
    model: Model,
    data: EvaluationSet,
    cache: Path | None,
    *,
    crop: str = "context",
    level: str = "image",
    notes: list[str] | None = None,
) -> DescribedTask:
    note = [].append if notes is None else notes.append
    task: RetrievalTask = make_task(data, level)
    return TaskDescriber(model, data, BoxSource(), crop, "whole", 0, cache, note).describe(task)[0]


def same(first: ImageRows | ImageWords, second: ImageRows | ImageWords) -> bool:
    if isinstance(first, ImageRows) and isinstance(second, ImageRows):
        return np.array_equal(first.vectors, second.vectors) and np.array_equal(first.boxes, second.boxes)
    assert isinstance(first, ImageWords)
    assert isinstance(second, ImageWords)
    pairs = list(zip(first.described.values(), second.described.values(), strict=True))
    return all(
        np.array_equal(a.words, b.words)
        and np.array_equal(a.residuals, b.residuals)
        and np.array_equal(a.scales, b.scales)
        and (a.places is None) == (b.places is None)
        and (a.places is None or b.places is None or np.array_equal(a.places.points, b.places.points))
        for a, b in pairs
    )


def test_models_of_one_extractor_share_the_features_of_photos(
    models: dict[str, Model], data: EvaluationSet, tmp_path: Path, extracted: list[str]
) -> None:
    for name, model in models.items():
        plain = describe(model, data, None)
        del extracted[:]
        cached = describe(model, data, tmp_path)
        # a.png is the same photo in the database and with a box in the queries
        assert sorted(extracted) == (["a.png", "b.png", "c.png", "q.png"] if name == "asmk" else [])
        assert same(plain.database, cached.database)
        assert same(plain.queries, cached.queries)
    assert len(list((tmp_path / FOLDER).iterdir())) == 4


def test_features_of_boxes_that_are_cut_out_are_kept_for_their_size(
    models: dict[str, Model], data: EvaluationSet, tmp_path: Path, extracted: list[str]
) -> None:
    model = models["asmk"]
    for crop in ("crop", "scaled"):
        for _ in range(2):
            plain = describe(model, data, None, crop=crop)
            del extracted[:]
            assert same(plain.queries, describe(model, data, tmp_path, crop=crop).queries)
        assert extracted == []
    assert len(list((tmp_path / FOLDER).iterdir())) == 4 + 2, "two sizes of the box"


def test_seconds_are_those_of_computing(
    models: dict[str, Model], data: EvaluationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["asmk"]
    describe(model, data, tmp_path)
    for entry in (tmp_path / FOLDER).iterdir():
        card = json.loads((entry / "entry.json").read_text())
        assert card["about"]["seconds"] > 0
        card["about"]["seconds"] = 1000.0
        (entry / "entry.json").write_text(json.dumps(card))
    found = describe(model, data, tmp_path)
    assert 3000 < found.seconds["database"] < 3100
    assert 2000 < found.seconds["queries"] < 2100


def test_a_damaged_entry_is_computed_anew(
    models: dict[str, Model], data: EvaluationSet, tmp_path: Path, extracted: list[str]
) -> None:
    plain = describe(models["asmk"], data, tmp_path)
    first = next((tmp_path / FOLDER).iterdir())
    (first / "vectors.npy").write_bytes(b"half")
    del extracted[:]
    notes: list[str] = []
    assert same(plain.database, describe(models["asmk"], data, tmp_path, notes=notes).database)
    assert len(extracted) == 1
    assert len(notes) == 1
    assert "damaged" in notes[0]


def test_another_extractor_has_features_of_its_own(
    models: dict[str, Model], folder: Path, data: EvaluationSet, tmp_path: Path, extracted: list[str]
) -> None:
    describe(models["asmk"], data, tmp_path)
    local = {**LOCAL, "local_features": {**LOCAL["local_features"], "count": 30}}
    torch.manual_seed(0)
    fewer = fit_parts(build_model({"describer": local, "aggregator": AGGREGATORS["asmk"]}), [folder])
    plain = describe(fewer, data, None)
    del extracted[:]
    assert same(plain.database, describe(fewer, data, tmp_path).database)
    assert len(extracted) == 4


def test_the_model_that_is_measured_stays_as_it_is(models: dict[str, Model], tmp_path: Path) -> None:
    model = models["vlad"]
    kept, cache = with_feature_cache(model, tmp_path, [].append)
    assert cache is not None
    assert isinstance(model.describer.local_features, Dense)
    assert kept.pipeline.describer.dim == model.pipeline.describer.dim
    assert kept.decode_side == model.decode_side
    kept.pipeline.check_fitted()


def test_models_of_vectors_and_no_folder(models: dict[str, Model], tmp_path: Path) -> None:
    vectors = build_model(SETTINGS)
    assert with_feature_cache(vectors, tmp_path, [].append) == (vectors, None)
    assert with_feature_cache(models["vlad"], None, [].append) == (models["vlad"], None)
    with pytest.raises(ValueError, match="local_features: expected a model of local features, found Model"):
        vectors.with_local_features(models["vlad"].describer.local_features)
