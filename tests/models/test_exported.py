"""Exported models behind everything that knows models. Their graphs are made by hand, so every row is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import objemb
from objemb.checks import ArtefactMismatchError
from objemb.cli.app import command_line
from objemb.images.decode import UnreadableImageError, read_photo
from objemb.index.store import Index
from objemb.models import load_model
from objemb.models.exported import ExportedModel, open_exported
from objemb.models.row_schema import row_schema
from objemb.search.retrieval import Retrieval
from objemb.structures import Photo, RegionDescriptors, Regions
from tests.runtimes.models import (
    CLASSES,
    DIM,
    FINGERPRINT,
    SETTINGS,
    K,
    rows_of,
    vector_of_part,
    vectors_of,
    write_model,
)
from tests.tiny import random_photo

pytest.importorskip("onnxruntime")

PHOTO = random_photo(40, 60)
QUERY = np.array([[5, 6, 30, 36], [0, 0, 60, 40], [7, 7, 7, 7]], np.float32)
R_MAC: dict[str, Any] = {
    "describer": {"name": "pooled_regions", "extractor": {"name": "map"}},
    "aggregator": {"name": "sum"},
    "rerank": [],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def model(folder: Path) -> ExportedModel:
    return open_exported(folder)


def same(described: object, boxes: object, vectors: object) -> None:
    assert isinstance(described, RegionDescriptors)
    np.testing.assert_allclose(described.regions.boxes, boxes, atol=1e-4)
    np.testing.assert_allclose(described.vectors, vectors, atol=1e-5)


class TestOpening:
    def test_it_is_a_model(self, folder: Path) -> None:
        model = objemb.load(folder)
        assert (model.fingerprint, model.dim, model.path) == (FINGERPRINT, DIM, folder)
        assert (model.gives, model.kernel, model.per_region, model.has_detector) == (
            RegionDescriptors,
            None,
            True,
            True,
        )
        assert row_schema(model).name == "unit_vectors" or row_schema(model).dim == DIM  # type: ignore[attr-defined]
        assert model.about["precision"] == "fp32"
        assert model.about["path"] == str(folder.absolute())
        assert repr(model) == "ExportedModel('one_pass', dim=4, fingerprint='ffffffffffff')"

    @pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
    def test_by_a_runtime(self, folder: Path, runtime: str) -> None:
        pytest.importorskip(runtime)
        model = objemb.load(folder, runtime=runtime, threads=1)
        assert isinstance(model, ExportedModel)
        assert (model.runtime.registry_name, model.runtime.threads) == (runtime, 1)
        same(model.describe(PHOTO), *rows_of(PHOTO))

    def test_what_does_not_fit(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match="device of an exported model: expected one of 'auto', 'cpu', found 'cuda'"
        ):
            objemb.load(folder, device="cuda")
        with pytest.raises(ValueError, match="expected one that reads 'onnx', found 'torch', which reads 'pt2'"):
            objemb.load(folder, runtime="torch")
        with pytest.raises(ValueError, match="expected a model of PyTorch, found one that 'objemb export' made"):
            load_model(folder)
        with pytest.raises(ValueError, match="precision of onnxruntime: expected one of 'fp32', found 'bf16'"):
            objemb.load(folder, precision="bf16", runtime="onnxruntime")

    def test_a_precision_is_that_of_the_graphs(self, tmp_path: Path) -> None:
        folder = write_model(tmp_path / "m", precision="int8")
        assert objemb.load(folder).precision == objemb.load(folder, precision="int8").precision == "int8"
        with pytest.raises(ValueError, match=r"expected 'int8', in which .* was exported, found 'fp32'"):
            objemb.load(folder, precision="fp32")

    def test_a_damaged_graph(self, folder: Path) -> None:
        (folder / "boxes.onnx").write_bytes((folder / "boxes.onnx").read_bytes()[:-9])
        with pytest.raises(ArtefactMismatchError, match=r"boxes\.onnx: expected sha256"):
            objemb.load(folder)

    def test_the_card_of_another_model(self, folder: Path, tmp_path: Path) -> None:
        card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        (folder / "model.json").write_text(json.dumps({**card, "dim": 9}))
        with pytest.raises(ArtefactMismatchError, match=r"graphs that describe photos by vectors of 9, found .* 4"):
            objemb.load(folder)


class TestDescribing:
    def test_the_rows_of_a_photo(self, model: ExportedModel) -> None:
        found = model.describe(PHOTO)
        same(found, *rows_of(PHOTO))
        assert isinstance(found, RegionDescriptors)
        assert found.regions.label_names == (None, "pot", "cup")
        assert found.regions.scores.tolist() == pytest.approx([1, 0.9, 0.6])
        assert found.regions.classes == CLASSES
        assert found.metadata == PHOTO.metadata

    def test_boxes_are_those_of_the_original(self, model: ExportedModel) -> None:
        photo = random_photo(30, 45, size=(299, 450))
        same(model.describe(photo), *rows_of(photo))
        same(model.query(photo, QUERY), QUERY, vectors_of(photo, QUERY))

    def test_a_decoder_scales_a_jpeg_down(self, tmp_path: Path) -> None:
        model = open_exported(write_model(tmp_path / "m", decode_side=40))
        Image.fromarray(np.full((400, 600, 3), 120, np.uint8)).save(tmp_path / "a.jpg")
        photo = read_photo(tmp_path / "a.jpg", side=40)
        assert photo.pixels.shape[1:] == (100, 150)
        same(model.describe(tmp_path / "a.jpg"), *rows_of(photo))

    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("batch", [1, 2, 4])
    def test_batches_of_photos_of_several_sizes(self, batch: int, threads: int, tmp_path: Path) -> None:
        model = open_exported(write_model(tmp_path / "m", batch=batch), threads=threads)
        photos = [
            random_photo(h, w, seed=s, id=str(s)) for s, (h, w) in enumerate([(9, 8), (8, 9), (9, 8), (1, 1), (9, 8)])
        ]
        found = list(model.stream(photos, batch_size=5))
        assert [one.image for one in found] == ["0", "1", "2", "3", "4"]
        for one, photo in zip(found, photos, strict=True):
            same(one, *rows_of(photo))

    def test_at_most_so_many_boxes(self, model: ExportedModel) -> None:
        boxes, vectors = rows_of(PHOTO)
        for most in (0, 1, 2, 9):
            (found,) = model.stream([PHOTO], max_regions=most)
            same(found, boxes[: 1 + most], vectors[: 1 + most])

    def test_no_detections(self, tmp_path: Path) -> None:
        model = open_exported(write_model(tmp_path / "m", detector=False))
        boxes, vectors = rows_of(PHOTO)
        same(model.describe(PHOTO), boxes[:1], vectors[:1])
        with pytest.raises(ValueError, match="expected a model with a detector"):
            model.detect(PHOTO)

    def test_another_network_describes(self, tmp_path: Path) -> None:
        model = open_exported(write_model(tmp_path / "m", crops=True))
        same(model.describe(PHOTO), *rows_of(PHOTO))

    def test_one_row_for_each_photo(self, tmp_path: Path) -> None:
        model = open_exported(write_model(tmp_path / "m", per_region=False, settings=R_MAC))
        boxes, vectors = rows_of(PHOTO)
        same(model.describe(PHOTO), boxes[:1], vectors[:1])
        with pytest.raises(
            ValueError, match=r"expected no other regions than the model's own, .* one row per photo, found boxes"
        ):
            list(model.stream([PHOTO], boxes=_Given(Regions.whole(PHOTO.size))))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="found max_regions=2"):
            list(model.stream([PHOTO], max_regions=2))

    def test_one_row_whatever_the_detector_found(self, tmp_path: Path) -> None:
        """Of a network that sums the regions itself and keeps the rows: there is one, although it is one per region."""
        settings = {**R_MAC, "aggregator": {"name": "keep"}}
        model = open_exported(write_model(tmp_path / "m", settings=settings, in_context=False))
        boxes, vectors = rows_of(PHOTO)
        assert model.per_region
        assert model.has_detector
        same(model.describe(PHOTO), boxes[:1], vectors[:1])
        with pytest.raises(ValueError, match=r"expected no other regions .*, found max_regions=2"):
            model.limited(2)

    def test_given_boxes(self, model: ExportedModel) -> None:
        given = Regions(QUERY, PHOTO.size, scores=[0.9, 0.8, 0.7])
        (found,) = model.stream([PHOTO], boxes=_Given(given), max_regions=2)  # type: ignore[arg-type]
        boxes = np.concatenate([[[0, 0, 60, 40]], QUERY[:2]]).astype(np.float32)
        same(found, boxes, vectors_of(PHOTO, boxes))

    def test_photos_of_one_size(self, tmp_path: Path) -> None:
        model = open_exported(write_model(tmp_path / "m", size=(40, 60)))
        same(model.describe(PHOTO), *rows_of(PHOTO))
        with pytest.raises(
            ValueError, match="expected 60 x 40 pixels, for which the model was exported, found 40 x 60"
        ):
            model.describe(random_photo(60, 40))
        skipped: list[str] = []
        photos = [random_photo(60, 40, id="other"), PHOTO]
        assert [one.image for one in model.stream(photos, on_skip=lambda s: skipped.append(s.id))] == ["photo"]
        assert skipped == ["other"]


class _Given:
    """A detector that finds the same in every photo."""

    def __init__(self, regions: Regions) -> None:
        self.regions = regions

    def detect(self, photos: list[Photo]) -> list[Regions]:
        return [self.regions for _ in photos]

    def decode_side(self) -> int:
        return 0


class TestQueries:
    def test_what_a_photo_is_searched_with(self, model: ExportedModel) -> None:
        boxes, vectors = rows_of(PHOTO)
        same(model.query(PHOTO), boxes, vectors)
        same(model.query(PHOTO, "whole"), boxes[:1], vectors[:1])
        same(model.query(PHOTO, "detector"), boxes[1:], vectors[1:])
        assert model.detect(PHOTO).boxes.tolist() == pytest.approx(boxes[1:])

    def test_boxes_in_their_photo_and_cut_out(self, model: ExportedModel) -> None:
        same(model.query(PHOTO, QUERY), QUERY, vectors_of(PHOTO, QUERY))
        same(model.query(PHOTO, QUERY, crop="scaled"), QUERY, vectors_of(PHOTO, QUERY))
        cut = Photo("cut", PHOTO.pixels[:, 6:36, 5:30], (30, 25))
        found = model.query(PHOTO, QUERY[:1], crop="crop")
        same(found, QUERY[:1], rows_of(cut)[1][:1])
        whole = rows_of(PHOTO)[1][:1]
        same(model.query(PHOTO, QUERY, crop="whole"), QUERY, whole.repeat(3, axis=0))

    @pytest.mark.parametrize("crop", ["context", "crop", "whole", "scaled"])
    def test_no_boxes(self, model: ExportedModel, crop: str) -> None:
        found = model.query(PHOTO, np.zeros((0, 4), np.float32), crop=crop)
        assert found.vectors.shape == (0, DIM)  # type: ignore[union-attr]

    def test_a_method_whose_parts_keep_the_scale_of_their_photo(self, tmp_path: Path) -> None:
        model = open_exported(write_model(tmp_path / "m", per_region=False, settings=R_MAC))
        with pytest.raises(
            ValueError, match=r"crop: expected 'crop' or 'whole' for this exported model, .* found 'context'"
        ):
            model.query(PHOTO, QUERY)
        cut = Photo("cut", PHOTO.pixels[:, 6:36, 5:30], (30, 25))
        same(model.query(PHOTO, QUERY[:1], crop="crop"), QUERY[:1], rows_of(cut)[1][:1])

    @pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
    def test_parts_that_keep_the_scale_of_their_photo(self, tmp_path: Path, runtime: str) -> None:
        """Also of a photo that was decoded at a third of its size."""
        pytest.importorskip(runtime)
        folder = write_model(tmp_path / "m", per_region=False, parts=True, settings=R_MAC)
        model = open_exported(folder, runtime=runtime)
        for photo in (PHOTO, Photo("small", PHOTO.pixels, (120, 180))):
            boxes = QUERY[:2] * (photo.size[0] / 40)
            cuts = [Photo("cut", PHOTO.pixels[:, 6:36, 5:30], (30, 25)), PHOTO]
            expected = np.concatenate([vector_of_part(photo, cut) for cut in cuts])
            for crop in ("context", "scaled"):
                same(model.query(photo, boxes, crop=crop), boxes, expected)
            same(model.query(photo, boxes[:1], crop="crop"), boxes[:1], rows_of(cuts[0])[1][:1])
        assert model.query(PHOTO, QUERY[:0]).vectors.shape == (0, DIM)  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("boxes", "message"),
        [
            ([(np.nan, 0, 3, 3)], "expected finite x1, y1, x2, y2"),
            ([(0, 0, 61, 40)], "inside the image of 60 x 40"),
            ([(30, 20, 10, 30)], "x1 <= x2"),
            ([(0.1, 0.1, 0.9, 0.9)], "as fractions of its size"),
            (np.zeros((2, 3)), "expected rows of x1, y1, x2, y2"),
        ],
    )
    def test_boxes_that_are_none(self, model: ExportedModel, boxes: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            model.query(PHOTO, boxes)

    def test_images_of_every_kind(self, model: ExportedModel) -> None:
        deep = np.full((4, 5), 30_000, np.uint16)
        alpha = np.dstack([np.full((4, 5, 3), 10, np.uint8), np.zeros((4, 5), np.uint8)])
        for image in (deep, alpha, np.zeros((1, 1, 3), np.uint8), np.zeros((1, 900, 3), np.uint8)):
            assert len(model.describe(image)) == 3
        with pytest.raises(UnreadableImageError, match="too many pixels"):
            model.query(_png(300, 200), max_pixels=1000)


def _png(width: int, height: int) -> bytes:
    import io

    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


class TestIndex:
    def test_its_rows_go_into_the_index_of_its_model(self, model: ExportedModel, tmp_path: Path) -> None:
        index = Index.create(tmp_path / "i", schema=row_schema(model), fingerprint=FINGERPRINT, model=model.about)
        with index.writer() as writer:
            for one in model.stream([random_photo(20, 30, seed=n, id=str(n)) for n in range(4)]):
                writer.add(one)
        found = Retrieval(model, index).search(random_photo(20, 30, seed=2).pixels.transpose(1, 2, 0), k=1)
        assert found.hits[0].image == "2"
        assert found.hits[0].score == pytest.approx(1, abs=1e-5)
        other = open_exported(write_model(tmp_path / "other"))
        object.__setattr__(other, "card", {**other.card, "fingerprint": "0" * 64})
        with pytest.raises(ArtefactMismatchError, match="fingerprint"):
            Retrieval(other, index)

    def test_the_commands(self, folder: Path, tmp_path: Path) -> None:
        for number in range(3):
            noise = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
            (tmp_path / "photos").mkdir(exist_ok=True)
            Image.fromarray(noise).save(tmp_path / "photos" / f"{number}.png")
        run = CliRunner()
        made = run.invoke(
            command_line(),
            [
                "index",
                str(tmp_path / "photos"),
                "-o",
                str(tmp_path / "i"),
                "--model",
                str(folder),
                "--runtime",
                "onnxruntime",
                "--threads",
                "1",
                "--json",
            ],
        )
        assert made.exit_code == 0, made.output
        assert json.loads(made.stdout)["regions"] == 9
        query = str(tmp_path / "photos" / "1.png")
        for more in ([], ["--box", "3,4,15,12"], ["--auto"], ["--whole"]):
            answer = run.invoke(command_line(), ["search", str(tmp_path / "i"), query, "--json", *more])
            assert answer.exit_code == 0, answer.output
            assert json.loads(answer.stdout)["hits"][0]["image"] == "1.png"
        found = json.loads(run.invoke(command_line(), ["detect", query, "--model", str(folder), "--json"]).stdout)
        assert [o["label"] for o in found["images"][0]["objects"]] == ["pot", "cup"]

    def test_what_is_said_of_it(self, folder: Path) -> None:
        said = CliRunner().invoke(command_line(), ["model", "info", str(folder)]).stdout
        assert "onnx, fp32" in said
        assert f"at most {K} boxes" in said

    def test_rerankers_that_look_at_vectors_alone(self, tmp_path: Path) -> None:
        steps = [{"name": "query_expansion", "top": 2}]
        model = open_exported(write_model(tmp_path / "m", settings={**SETTINGS, "rerank": steps}))
        assert [r.registry_name for r in model.rerankers] == ["query_expansion"]

    def test_the_doctor_tries_it(self, folder: Path) -> None:
        done = CliRunner().invoke(command_line(), ["doctor", "--model", str(folder), "--json"])
        (found,) = (check for check in json.loads(done.stdout)["checks"] if check["name"] == "model")
        assert found["state"] == "ok"
        assert f"{folder} on cpu: dimension 4" in found["detail"]
