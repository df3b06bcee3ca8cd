from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objemb import registry
from objemb.aggregators.keep import Keep
from objemb.card import read_card
from objemb.checks import ArtefactMismatchError, NotFittedError
from objemb.detectors.base import Detector
from objemb.images.inputs import as_photo
from objemb.images.sources import SkippedImage
from objemb.layers.whitening import Whitening
from objemb.models import Model, build_model, fit_learned_whitening, fit_parts, fit_whitening, load_model, save_model
from tests.models.conftest import RMAC, SETTINGS

POOLINGS: dict[str, dict[str, Any]] = {
    "netvlad": {"name": "netvlad", "clusters": 4},
    "many": {"name": "netvlad", "clusters": 9999},
    "triangulation": {"name": "triangulation", "dim": 4, "words": 3, "dropped": 2, "mask": "none"},
}


#: Of one cell in 8 x 8 pixels; quicker to build than the network of the other tests.
NARROW = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1], "layer": "layer2"}


@functools.cache
def with_pooling(name: str, crops: bool = False) -> Model:
    base = SETTINGS if crops else RMAC
    return build_model({**base, "describer": {**base["describer"], "backbone": NARROW, "pooling": POOLINGS[name]}})


@pytest.fixture(params=["netvlad", "triangulation"])
def fresh(request: pytest.FixtureRequest) -> Model:
    return with_pooling(request.param)


def test_parts_learn_from_the_cells_of_photos(fresh: Model, photos: Path) -> None:
    seen: list[int] = []
    assert fresh.pipeline.unfitted() == ["pooling"]
    fitted = fit_parts(fresh, [photos], on_photo=lambda: seen.append(1))
    assert len(seen) == 5
    assert fresh.pipeline.unfitted() == ["pooling"], "the model stays as it is"
    (part,) = fitted.describer.fitted_parts().values()
    cells = 5 * 12 * 16  # 80 x 60 pixels enter as 128 x 96, of which a cell sees 8 x 8
    assert part.settings() == {"fitted_on": f"{cells} vectors of 5 photos: {photos}", "count": cells}
    vectors = torch.as_tensor(fitted.describe(photos / "0.png").vectors)
    assert vectors.shape == (1, fitted.dim)
    assert vectors.norm() == pytest.approx(1, abs=1e-4)
    assert fitted.fingerprint != fresh.fingerprint


def test_the_same_photos_give_the_same_model(fresh: Model, photos: Path) -> None:
    first = fit_parts(fresh, [photos])
    assert fit_parts(fresh, [photos]).fingerprint == first.fingerprint
    assert fit_parts(first, [photos]) is first, "what has learned does not learn again"


def test_a_saved_model_describes_as_before(fresh: Model, photos: Path, tmp_path: Path) -> None:
    fitted = fit_parts(fresh, [photos])
    save_model(fitted, tmp_path / "model")
    opened = load_model(tmp_path / "model")
    assert opened.fingerprint == fitted.fingerprint
    assert torch.equal(
        torch.as_tensor(opened.describe(photos / "1.png").vectors),
        torch.as_tensor(fitted.describe(photos / "1.png").vectors),
    )
    (part,) = opened.describer.fitted_parts().values()
    assert read_card(tmp_path / "model")["fitted"] == {"pooling": part.settings()}
    assert str(photos) in part.fitted_on
    save_model(opened, tmp_path / "again")
    assert read_card(tmp_path / "again")["fitted"] == read_card(tmp_path / "model")["fitted"]


def test_a_card_that_has_lost_what_was_fitted(photos: Path, tmp_path: Path) -> None:
    save_model(fit_parts(with_pooling("netvlad"), [photos]), tmp_path / "model")
    card = read_card(tmp_path / "model")
    (tmp_path / "model" / "model.json").write_text(json.dumps({**card, "fitted": {}}))
    with pytest.raises(ArtefactMismatchError, match="pooling"):
        load_model(tmp_path / "model")


def test_an_unfitted_model_says_so(fresh: Model, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="expected a fitted part, found an unfitted one; add --fit-on PHOTOS"):
        fresh.describe(photos / "0.png")
    with pytest.raises(NotFittedError, match="--fit-on"):
        list(fresh.stream([photos]))
    with pytest.raises(NotFittedError, match="--fit-on"):
        save_model(fresh, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_whitening_lets_parts_learn_first(fresh: Model, photos: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    whitened = fit_whitening(fresh, [photos], dim=3, on_photo=lambda: seen.append(1))
    assert len(seen) == 10, "once for the pooling, once for the whitening"
    assert whitened.dim == 3
    assert whitened.pipeline.unfitted() == []
    save_model(whitened, tmp_path / "model")
    opened = load_model(tmp_path / "model")
    assert torch.equal(
        torch.as_tensor(opened.describe(photos / "1.png").vectors),
        torch.as_tensor(whitened.describe(photos / "1.png").vectors),
    )


@pytest.mark.parametrize(
    ("aggregator", "first"), [({"name": "sum"}, 1), ({"name": "sum", "whole_image": True}, 0), ({"name": "keep"}, 0)]
)
def test_a_whitening_learns_from_the_regions_that_count(photos: Path, aggregator: dict[str, Any], first: int) -> None:
    """R-MAC is whitened on the vectors of its grid, without the whole image, which the paper does not sum up."""
    model = build_model({"describer": {**RMAC["describer"], "backbone": NARROW}, "aggregator": aggregator})
    by_region = replace(model, aggregator=Keep())
    grids = [by_region.describe(file).vectors[first:] for file in sorted(photos.iterdir())]
    wanted = torch.as_tensor(np.concatenate(grids)).double()
    whitening = fit_whitening(model, [photos], dim=2).describer.whitening
    assert isinstance(whitening, Whitening)
    torch.testing.assert_close(whitening.mean.double(), wanted.mean(dim=0), rtol=0, atol=1e-6)
    values, axes = torch.linalg.eigh(torch.cov(wanted.T, correction=0))
    by_hand = (wanted[0] - wanted.mean(dim=0)) @ axes[:, [-1, -2]] / values[[-1, -2]].sqrt()
    found = whitening(wanted[:1].float())[0].double()  # of a whitened region, up to the signs of the axes
    torch.testing.assert_close(found.abs(), (by_hand / by_hand.norm()).abs(), rtol=0, atol=1e-3)


def test_broken_photos_are_skipped(photos: Path, tmp_path: Path) -> None:
    for file in photos.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "2.png").write_bytes(b"no picture")
    skipped: list[SkippedImage] = []
    fitted = fit_parts(with_pooling("netvlad"), [tmp_path], on_skip=skipped.append)
    assert [s.id for s in skipped] == ["2.png"]
    (part,) = fitted.describer.fitted_parts().values()
    assert "of 4 photos" in part.fitted_on


def test_too_little_to_learn_from(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pooling: expected photos with vectors to learn from, found none"):
        fit_parts(with_pooling("netvlad"), [tmp_path])
    with pytest.raises(ValueError, match="expected at least 9999 vectors for as many clusters, found 960"):
        fit_parts(with_pooling("many"), [photos])


def of_words(aggregator: dict[str, Any], **describer: Any) -> Model:
    return build_model(
        {
            "describer": {"name": "local", "local_features": {"name": "sift", "count": 20}, **describer},
            "aggregator": aggregator,
        }
    )


@pytest.mark.parametrize(
    ("aggregator", "describer", "boxed", "most"),
    [
        ({"name": "asmk", "words": 101}, {}, False, 20),
        ({"name": "vlad", "words": 101}, {"region_features": "inside"}, True, 20),
        ({"name": "vlad", "words": 101}, {"region_features": "crop"}, False, 20),
        ({"name": "vlad", "words": 101}, {"region_features": "crop"}, True, None),  # as many as there are boxes
    ],
)
def test_too_few_photos_are_refused_before_one_is_opened(
    aggregator: dict[str, Any],
    describer: dict[str, Any],
    boxed: bool,
    most: int | None,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """101 words of 5 photos that have 20 features at most."""
    pytest.importorskip("faiss")
    model = of_words(aggregator, **describer)
    assert model.pipeline.most_samples("aggregator.codebook", boxed=boxed) == most
    if boxed:
        return
    opened: list[object] = []
    monkeypatch.setattr("objemb.models.fitting.process_stream", lambda *given, **named: opened.append(given))
    for source in ([photos], [as_photo(file) for file in sorted(photos.iterdir())]):
        with pytest.raises(ValueError, match=r"codebook: expected at least 101 local features .* found at most 100;"):
            fit_parts(model, source)  # type: ignore[arg-type]
    assert not opened


def test_how_much_other_parts_learn_from_is_not_known() -> None:
    assert of_words({"name": "asmk", "idf": True}).pipeline.most_samples("aggregator.idf", boxed=False) is None
    assert with_pooling("netvlad").pipeline.most_samples("pooling", boxed=False) is None


def test_many_vectors_are_sampled(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objemb.pooling.netvlad.NetVlad.needed", 100)
    (part,) = fit_parts(with_pooling("netvlad"), [photos]).describer.fitted_parts().values()
    assert int(part.count) == 100


def test_given_boxes_are_learned_from(photos: Path, tmp_path: Path) -> None:
    coco = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 60} for n in range(5)],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 40, 30]} for n in range(5)],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    boxes = registry.build(Detector, {"name": "stored_boxes", "file": str(tmp_path / "boxes.json")})
    fitted = fit_parts(with_pooling("netvlad", crops=True), [photos], boxes=boxes)
    (part,) = fitted.describer.fitted_parts().values()
    assert int(part.count) == 5 * 2 * 64, "cells of the whole image and of the box, cut out to 64 x 64 pixels each"


def test_a_model_without_parts_is_given_back(rmac: Model, photos: Path) -> None:
    assert fit_parts(rmac, [photos]) is rmac


class TestPairs:
    @pytest.fixture
    def views(self, photos: Path, tmp_path: Path) -> Path:
        """A folder per instance: 0 and 1 show the first, 2 and 3 the second, 4 is alone."""
        for number, file in enumerate(sorted(photos.iterdir())):
            folder = tmp_path / "views" / f"thing {number // 2}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file.name).write_bytes(file.read_bytes())
        return tmp_path / "views"

    def test_from_a_folder_per_instance(self, rmac: Model, views: Path, tmp_path: Path) -> None:
        seen: list[int] = []
        whitened = fit_learned_whitening(rmac, views, dim=3, ridge=0.5, on_photo=lambda: seen.append(1))
        assert len(seen) == 5
        assert whitened.dim == 3
        assert whitened.describer.whitening.fitted_on == f"2 pairs, 5 regions of 5 photos: {views}"
        save_model(whitened, tmp_path / "model")
        opened = load_model(tmp_path / "model")
        photo = views / "thing 0" / "0.png"
        assert torch.equal(torch.as_tensor(opened.query(photo).vectors), torch.as_tensor(whitened.query(photo).vectors))
        assert read_card(tmp_path / "model")["whitening"]["power"] == 0

    def test_from_an_evaluation_set(self, model: Model, photos: Path, tmp_path: Path) -> None:
        data = {
            "images": [{"file": f"{n}.png", "instances": ["cup", "tea"]} for n in range(3)],
            "objects": [
                {"file": f"{n}.png", "instance": name, "box": box}
                for n in range(3)
                for name, box in (("cup", [0, 0, 40, 60]), ("tea", [40, 0, 80, 60]))
            ],
            "queries": [{"file": "4.png", "instance": "cup", "box": None}],
        }
        for file in photos.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "1.png").write_bytes(b"no picture")
        (tmp_path / "set.json").write_text(json.dumps(data))
        skipped: list[SkippedImage] = []
        whitened = fit_learned_whitening(model, tmp_path / "set.json", ridge=1.0, on_skip=skipped.append)
        assert [Path(s.path).name for s in skipped] == ["1.png"]
        # cups: two boxes and a query, three pairs; teas: two boxes, one pair
        assert whitened.describer.whitening.fitted_on.startswith("4 pairs, 5 regions of 3 photos")

    def test_a_box_outside_of_its_photo_is_skipped(self, model: Model, photos: Path, tmp_path: Path) -> None:
        rows = [{"file": str(photos / f"{n}.png"), "instance": "cup", "box": [0, 0, 40, 60]} for n in range(3)]
        rows[1]["box"] = [0, 0, 400, 60]
        images = [{"file": row["file"], "instances": ["cup"]} for row in rows]
        (tmp_path / "set.json").write_text(json.dumps({"images": images, "objects": rows, "queries": []}))
        skipped: list[SkippedImage] = []
        whitened = fit_learned_whitening(model, tmp_path / "set.json", dim=1, on_skip=skipped.append)
        assert len(skipped) == 1
        assert "400" in skipped[0].reason
        assert whitened.describer.whitening.count == 2

    def test_refuses_what_has_no_pairs(self, model: Model, views: Path, photos: Path) -> None:
        for folder in (photos, views / "thing 0"):
            with pytest.raises(ValueError, match="expected instances that are shown at least twice, found none"):
                fit_learned_whitening(model, folder)
        for name in ("0.png", "1.png"):
            (views / "thing 0" / name).write_bytes(b"")
            (views / "thing 1" / f"{int(name[0]) + 2}.png").write_bytes(b"")
        with pytest.raises(ValueError, match="expected pairs of photos that can be described, found none"):
            fit_learned_whitening(model, views)
        with pytest.raises(FileNotFoundError):
            fit_learned_whitening(model, views / "nowhere.json")

    def test_whitened_or_unfitted_models_are_refused(self, model: Model, views: Path) -> None:
        whitened = fit_learned_whitening(model, views, dim=1)
        with pytest.raises(ValueError, match="whitening: expected a model without one"):
            fit_learned_whitening(whitened, views)
        with pytest.raises(NotFittedError, match="--fit-on"):
            fit_learned_whitening(with_pooling("netvlad", crops=True), views)


@pytest.mark.parametrize(
    ("change", "message"), [({"dim": 10_000}, "dim: expected 1 to "), ({"dim": 0}, "dim: "), ({"power": 3}, "power: ")]
)
def test_a_whitening_that_cannot_be_is_refused_before_a_photo_is_described(
    fresh: Model, photos: Path, change: dict[str, Any], message: str
) -> None:
    seen: list[int] = []
    for fitting in (fit_whitening, fit_learned_whitening):
        source: Any = [photos] if fitting is fit_whitening else photos
        with pytest.raises(ValueError, match=message):
            fitting(fresh, source, on_photo=lambda: seen.append(1), **change)
    assert seen == []
