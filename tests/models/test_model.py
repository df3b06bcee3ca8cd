from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import objemb
from objemb.detectors.base import Detector
from objemb.images.decode import UnreadableImageError, read_photo
from objemb.images.sources import SkippedImage
from objemb.models import Model, build_model
from objemb.structures import Photo, RegionDescriptors, Regions
from tests.models.conftest import SETTINGS

BOXES = [(1.0, 2.0, 30.0, 40.0), (10.0, 0.0, 80.0, 60.0)]


class Halves(Detector):
    """The left half, the right half, and a quarter, by falling score."""

    classes = ("left", "right", "quarter")

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        found = []
        for photo in photos:
            h, w = photo.size
            boxes = torch.tensor([[0.0, 0, w / 2, h], [w / 2, 0, w, h], [0, 0, w / 2, h / 2]])
            scores = torch.tensor([0.9, 0.8, 0.3])
            found.append(Regions(boxes, photo.size, scores, torch.arange(3), self.classes))
        return found


def test_without_boxes_region_0_is_the_whole_image(model: Model, photos: Path) -> None:
    described = model.describe(photos / "0.png")
    assert described.regions.boxes.tolist() == [[0, 0, 80, 60]]
    assert described.vectors.shape == (1, model.dim)
    assert torch.allclose(torch.as_tensor(described.vectors).norm(dim=1), torch.ones(1))


@pytest.mark.parametrize("device", ["cuda:99", "warp"])
def test_a_device_that_is_not_there(device: str, model: Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"device: expected auto, cpu, or .*, found '{device}'"):
        build_model(SETTINGS, device=device)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=f"device: expected auto, cpu, or .*, found '{device}'"):
        objemb.load(tmp_path / "m", device)


def test_boxes_give_one_row_each_in_their_order(model: Model, photos: Path) -> None:
    described = model.describe(photos / "0.png", BOXES)
    assert described.regions.boxes.tolist() == [list(b) for b in BOXES]
    again = model.describe(photos / "0.png", list(reversed(BOXES)))
    assert torch.allclose(torch.as_tensor(described.vectors), torch.as_tensor(again.vectors).flip(0), atol=1e-5)
    assert model.describe(photos / "0.png", []).vectors.shape == (0, model.dim)


def test_every_kind_of_image_gives_the_same_vectors(model: Model, photos: Path) -> None:
    path = photos / "0.png"
    image = Image.open(path)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = torch.as_tensor(model.describe(path, BOXES).vectors)
    for other in (str(path), path.read_bytes(), image, array, tensor, read_photo(path)):
        assert torch.equal(torch.as_tensor(model.describe(other, BOXES).vectors), expected), type(other)


def test_the_orientation_of_a_pil_image_is_applied(model: Model) -> None:
    image = Image.new("L", (40, 20), 100)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    assert model.describe(opened).regions.size == (40, 20)
    assert model.describe(buffer.getvalue()).regions.size == (40, 20)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((3, 10, 10), np.uint8), ValueError),
        (np.zeros((10, 10, 3), np.int64), ValueError),
        (np.full((10, 10, 3), -0.1), ValueError),
        (np.full((10, 10, 3), np.nan), ValueError),
        (np.zeros((2, 10, 10, 3), np.uint8), ValueError),
        (np.zeros((0, 10, 3), np.uint8), ValueError),
        (np.zeros(10, np.uint8), ValueError),
        (torch.zeros(10, 10, 3, dtype=torch.uint8), ValueError),
        (torch.full((3, 10, 10), 7e4), ValueError),
        (io.StringIO("a text"), TypeError),
        (3, TypeError),
        (b"no image", UnreadableImageError),
        ("nowhere.jpg", FileNotFoundError),
    ],
)
def test_other_images_are_refused(model: Model, image: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"expected|image"):
        model.describe(image)  # type: ignore[arg-type]


@pytest.mark.parametrize("boxes", [[(0, 0, 81, 60)], [(5, 5, 4, 6)], [(1, 2, 3)], ["1234"], (1, 2, 3, 4)])
def test_invalid_boxes_are_refused(model: Model, photos: Path, boxes: list[tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="expected"):
        model.describe(photos / "0.png", boxes)


def test_regions_of_another_image_are_refused(model: Model, photos: Path) -> None:
    with pytest.raises(ValueError, match=r"\(60, 80\), found \(10, 10\)"):
        model.describe(photos / "0.png", Regions.whole((10, 10)))


def test_one_row_per_image_for_a_sum(rmac: Model, photos: Path) -> None:
    described = rmac.describe(photos / "0.png")
    assert described.regions.boxes.tolist() == [[0, 0, 80, 60]]


def test_the_query_is_the_whole_image_by_default(model: Model, photos: Path) -> None:
    query = model.query(photos / "0.png")
    assert torch.equal(torch.as_tensor(query.vectors), torch.as_tensor(model.describe(photos / "0.png").vectors)[:1])


def test_wrong_ways_to_ask(model: Model, photos: Path) -> None:
    with pytest.raises(ValueError, match="crop: expected one of 'context', 'crop', 'scaled', 'whole', found 'crops'"):
        model.query(photos / "0.png", BOXES, crop="crops")
    with pytest.raises(ValueError, match=r"boxes: expected one of 'whole', 'detector', 'both', found 'detect' \(did"):
        model.query(photos / "0.png", "detect")
    for word in ("detector", "both"):
        with pytest.raises(ValueError, match="with a detector"):
            model.query(photos / "0.png", word)
    with pytest.raises(ValueError, match="with a detector"):
        model.detect(photos / "0.png")


@pytest.fixture
def detecting(model: Model) -> Model:
    import copy
    from dataclasses import replace

    describer = copy.deepcopy(model.describer).eval()  # copying an fx graph forgets that it was in eval mode
    describer.regions.detector = Halves()  # type: ignore[union-attr]
    return replace(model, describer=describer)


def test_detect_gives_what_would_be_indexed(detecting: Model, photos: Path) -> None:
    found = detecting.detect(photos / "0.png")
    assert found.label_names == ("left", "right"), "the third is below the score"
    described = detecting.describe(photos / "0.png")
    assert described.regions.boxes[1:].tolist() == found.boxes.tolist()
    assert detecting.query(photos / "0.png", "detector").regions.boxes.tolist() == found.boxes.tolist()


def test_a_query_without_boxes(detecting: Model, photos: Path) -> None:
    described = detecting.describe(photos / "0.png")
    rows = {"whole": described[:1], "detector": described[1:], "both": described}
    for word, expected in rows.items():
        for crop in ("context", "crop", "scaled"):
            found = detecting.query(photos / "0.png", word, crop=crop)
            assert found.regions.boxes.tolist() == expected.regions.boxes.tolist()
            torch.testing.assert_close(
                torch.as_tensor(found.vectors), torch.as_tensor(expected.vectors), atol=1e-5, rtol=0
            )
        seen_whole = detecting.query(photos / "0.png", word, crop="whole")
        assert seen_whole.regions.boxes.tolist() == [[0, 0, 80, 60]]
        torch.testing.assert_close(
            torch.as_tensor(seen_whole.vectors), torch.as_tensor(described.vectors)[:1], atol=1e-5, rtol=0
        )
    assert torch.equal(
        torch.as_tensor(detecting.query(photos / "0.png").vectors),
        torch.as_tensor(detecting.query(photos / "0.png", "both").vectors),
    )


def test_a_query_in_which_nothing_is_found_is_the_whole_image(
    detecting: Model, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Halves, "detect", lambda self, photos: [Regions.empty(p.size) for p in photos])
    for word in ("detector", "both"):
        assert detecting.query(photos / "0.png", word).regions.boxes.tolist() == [[0, 0, 80, 60]]


def test_a_found_box_that_is_nearly_the_photo_is_the_photo(
    detecting: Model, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of 80 x 60 = 4800: 3840 / 4800 is 0.8 and the photo once more only above it, 64.1 x 60 is
    boxes = torch.tensor([[0.0, 0, 64, 60], [0, 0, 64.1, 60], [4, 3, 76, 57], [40, 30, 80, 60]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    monkeypatch.setattr(
        Halves, "detect", lambda self, photos: [Regions(boxes, p.size, scores, classes=()) for p in photos]
    )
    detecting.describer.regions.nms_iou = 1.0  # type: ignore[union-attr]
    both = torch.as_tensor(detecting.query(photos / "0.png", "both").regions.boxes)
    assert torch.equal(both, torch.tensor([[0.0, 0, 80, 60], [0, 0, 64, 60], [40, 30, 80, 60]]))
    found = torch.as_tensor(detecting.query(photos / "0.png", "detector").regions.boxes)
    assert torch.equal(found, boxes), "alone they stand for themselves"


def collect(model: Model, sources: object, **options: object) -> tuple[list[RegionDescriptors], list[SkippedImage]]:
    skipped: list[SkippedImage] = []
    described = list(model.stream(sources, on_skip=skipped.append, **options))  # type: ignore[arg-type]
    return described, skipped


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_equals_one_by_one(model: Model, photos: Path, batch_size: int, workers: int) -> None:
    described, skipped = collect(model, photos, batch_size=batch_size, workers=workers)
    assert [d.image for d in described] == [f"{n}.png" for n in range(5)]
    assert not skipped
    for one in described:
        assert torch.allclose(
            torch.as_tensor(one.vectors), torch.as_tensor(model.describe(photos / one.image).vectors), atol=1e-5
        )


def test_boxes_from_elsewhere_are_taken_as_they_are(model: Model, rmac: Model, photos: Path) -> None:
    described, _ = collect(model, [photos / "0.png"], boxes=Halves())
    assert described[0].regions.label_names == (None, "left", "right", "quarter"), "no threshold on given boxes"
    described, _ = collect(model, [photos / "0.png"], boxes=Halves(), max_regions=1)
    assert described[0].regions.label_names == (None, "left")
    described, _ = collect(model, [photos / "0.png"], boxes=Halves(), max_regions=0)
    assert described[0].regions.label_names == (None,)
    described, _ = collect(rmac, [photos / "0.png"], boxes=Halves())
    assert len(described[0]) == 1


def test_the_number_of_boxes_of_the_own_detector(detecting: Model, photos: Path) -> None:
    described, _ = collect(detecting, [photos / "0.png"], max_regions=1)
    assert described[0].regions.label_names == (None, "left")
    described, _ = collect(detecting, [photos / "0.png"])
    assert len(described[0]) == 3


def test_broken_photos_are_skipped_with_a_reason(model: Model, photos: Path, tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes((photos / "0.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"no image")
    described, skipped = collect(model, tmp_path)
    assert [d.image for d in described] == ["a.png", "c.png"]
    assert [(s.id, s.path) for s in skipped] == [("b.png", str(tmp_path / "b.png"))]
    assert skipped[0].reason


def test_a_photo_that_cannot_be_described_does_not_cost_its_batch(
    model: Model, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = type(model.describer).describe

    def failing(describer: object, batch: Sequence[Photo], regions: object = None) -> list[RegionDescriptors]:
        if any(p.id == "2.png" for p in batch):
            raise RuntimeError("a strange photo")
        return describe(describer, batch, regions)  # type: ignore[arg-type]

    monkeypatch.setattr(type(model.describer), "describe", failing)
    described, skipped = collect(model, photos, batch_size=8)
    assert [d.image for d in described] == ["0.png", "1.png", "3.png", "4.png"]
    assert skipped[0].reason == "cannot be described: RuntimeError: a strange photo"
    assert skipped[0].path == str(photos / "2.png")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("no"), RuntimeError("cannot allocate memory")])
def test_out_of_memory_halves_the_batch_for_good(
    model: Model, photos: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    describe = type(model.describer).describe
    sizes = []

    def tight(describer: object, batch: Sequence[Photo], regions: object = None) -> list[RegionDescriptors]:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise error
        return describe(describer, batch, regions)  # type: ignore[arg-type]

    monkeypatch.setattr(type(model.describer), "describe", tight)
    described, skipped = collect(model, [photos / f"{n}.png" for n in (0, 1, 2, 3, 4)], batch_size=4)
    assert len(described) == 5
    assert not skipped
    assert sizes == [4, 2, 2, 1]


def test_a_missing_library_stops_the_job(model: Model, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("pip install 'objemb[coco]'")

    monkeypatch.setattr(type(model.describer), "describe", missing)
    with pytest.raises(ImportError, match="objemb"):
        collect(model, photos)


def test_the_public_names() -> None:
    assert set(objemb.__all__) <= set(dir(objemb))
    for name in objemb.__all__:
        assert getattr(objemb, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        objemb.nothing  # noqa: B018


def test_importing_objemb_is_light() -> None:
    import subprocess
    import sys

    code = (
        "import sys, objemb, objemb.cli.app; objemb.cli.app.command_line();"
        "print([m for m in ('torch', 'numpy', 'PIL', 'yaml') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_re_ranking_travels_and_leaves_the_fingerprint_alone(model: Model, tmp_path: Path) -> None:
    settings = {**SETTINGS, "rerank": [{"name": "query_expansion", "top": 7}]}
    built = build_model(settings)
    built.save(tmp_path / "m")
    for one in (built, objemb.load(tmp_path / "m")):
        assert [r.top for r in one.rerankers] == [7]  # type: ignore[attr-defined]
        assert one.fingerprint == model.fingerprint
    assert model.rerankers == ()
