"""The ground floor runs where PyTorch is not installed: structures, photos, the index with its commands."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import objemb
from objemb.card import write_folder
from objemb.cli.app import command_line
from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.images.decode import read_photo
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.visual_words import WordRows
from objemb.index.store import Index
from objemb.structures import RegionDescriptors, Regions, VisualWords
from tests.runtimes.models import SETTINGS, write_model

#: Rooms of which every module is imported. A service on a small machine needs no more to hold an index.
DEPLOYABLE = ("structures", "images", "index", "coco", "runtimes", "serve")
#: Single modules beside them.
MODULES = (
    *("checks", "disk", "registry", "config", "types", "cli.app", "cli.main", "visualize.page"),
    *("models.base", "models.exported", "models.opening", "models.row_schema", "models.stream", "models.origins"),
    *("search.approximate", "search.indexing", "search.kinds", "search.retrieval"),
    *("rerank.base", "rerank.query_expansion", "rerank.database_augmentation", "rerank.diffusion"),
    *("rerank.region_expansion", "rerank.region_match", "search.words"),
    *("datasets.evaluation_set", "datasets.protocols", "datasets.benchmarks", "detectors.stored_boxes"),
)

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def python(code: str, *arguments: object, code_wanted: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter that has no PyTorch."""
    environment = {**os.environ, "PYTHONPATH": str(Path(objemb.__file__).parents[1])}
    command = [sys.executable, "-c", BLOCKED + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code_wanted, done.stderr
    return done


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run ``objemb ...`` there."""
    return python("from objemb.cli.main import main; main(sys.argv[1:])", *arguments, code_wanted=code)


def described(name: str, seed: int, count: int = 3) -> RegionDescriptors:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    regions = Regions([[0, 0, 10 + n, 20] for n in range(count)], (50, 60), labels=[0] * count, classes=("cup",))
    return RegionDescriptors(name, regions, vectors, {"price": seed})


def made(folder: Path, *numbers: int) -> Index:
    index = Index.create(folder, schema=UnitVectors(8), fingerprint="some model")
    with index.writer() as writer:
        for number in numbers:
            writer.add(described(f"{number}.jpg", number))
    return index


def test_every_module_of_the_ground_floor_is_imported() -> None:
    names = [f"objemb.{module}" for module in MODULES]
    for room in DEPLOYABLE:
        package = Path(objemb.__file__).parent / room
        names += [m.name for m in pkgutil.walk_packages([str(package)], f"objemb.{room}.")]
    assert len(names) > 40
    python("import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", *names)


def test_an_index_is_made_searched_and_changed(tmp_path: Path) -> None:
    made(tmp_path / "expected", *range(9))
    code = """
import json
import numpy as np
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.structures import RegionDescriptors, Regions

index = Index.open(sys.argv[1])
query = index.get("4.jpg")
assert isinstance(query.vectors, np.ndarray)
found = index.search(query, 3, where="price > 2 and label = 'cup'", exact=True)
other = Index.create(sys.argv[2], schema=UnitVectors(8), fingerprint=index.fingerprint)
with other.writer() as writer:
    for name in ("4.jpg", "5.jpg"):
        writer.add(index.get(name))
    writer.delete(["5.jpg"])
given = RegionDescriptors("mine", Regions([[1, 1, 5, 5]], (9, 9)), [[0.6, 0.8, 0, 0, 0, 0, 0, 0]])
with other.writer() as writer:
    writer.add(given)
other.merge([index], on_collision="keep")
other.compact()
assert other.verify() == []
print(json.dumps({"found": found.to_json(), "mine": [h.image for h in other.search(given, 2)], "count": len(other)}))
"""
    answer = json.loads(python(code, tmp_path / "expected", tmp_path / "other").stdout)
    index = Index.open(tmp_path / "expected")
    expected = index.search(index.get("4.jpg"), 3, where="price > 2 and label = 'cup'", exact=True)
    assert answer["found"] == expected.to_json(), "the answers of a machine with PyTorch"
    assert answer["mine"][0] == "mine"
    assert answer["count"] == 10


def test_an_index_of_visual_words_is_made_searched_and_changed(tmp_path: Path) -> None:
    rows = WordRows(dim=16, words=4)
    index = Index.create(tmp_path / "expected", schema=rows, fingerprint="some model")
    with index.writer() as writer:
        for number in range(9):
            writer.add(words(f"{number}.jpg", number))
    code = """
import json
from objemb.index.store import Index

index = Index.open(sys.argv[1])
found = index.search(index.get("4.jpg"), 3, where="price != 5")
other = Index.create(sys.argv[2], schema=index.schema, fingerprint=index.fingerprint)
with other.writer() as writer:
    for name in ("4.jpg", "5.jpg"):
        writer.add(index.get(name))
    writer.delete(["5.jpg"])
other.merge([index], on_collision="keep")
other.compact()
assert other.verify() == []
print(json.dumps({"found": found.to_json(), "count": len(other)}))
"""
    answer = json.loads(python(code, tmp_path / "expected", tmp_path / "other").stdout)
    assert answer["found"] == index.search(index.get("4.jpg"), 3, where="price != 5").to_json()
    assert answer["found"]["hits"][0]["image"] == "4.jpg"
    assert answer["count"] == 9


def words(name: str, seed: int) -> VisualWords:
    rng = np.random.default_rng(seed)
    signs = np.packbits(rng.random((3, 16)) < 0.5, axis=1)
    numbers = np.sort(rng.choice(4, 3, replace=False)).astype(np.int32)
    ones = np.ones(3, np.float32)
    return VisualWords(
        name, Regions.whole((50, 60)), 16, np.zeros(3, np.int64), numbers, signs, ones, ones[:1], None, {"price": seed}
    )


def test_stored_boxes_and_evaluation_sets_are_read(tmp_path: Path) -> None:
    """Turned, scaled and with masks, as on a machine with PyTorch."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)  # 40 x 60 once it is turned
    polygon = {"segmentation": [[10, 5, 30, 5, 10, 13]]}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 8], **polygon}
    images = [{"id": 1, "file_name": "a.jpg", "width": 30, "height": 20}]
    coco = {"images": images, "categories": [{"id": 1, "name": "cup"}], "annotations": [box]}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    entry = {"file": "a.jpg", "instance": "cup", "box": [1, 2, 21, 12], "width": 30, "height": 20}
    (tmp_path / "set.json").write_text(json.dumps({"name": "s", "images": [entry], "objects": [entry], "queries": []}))
    code = """
import json
from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.images.decode import read_photo

(regions,) = StoredBoxes(sys.argv[1] + "/coco.json", masks=True).detect([read_photo(sys.argv[1] + "/a.jpg")])
(entry,) = read_evaluation_set(sys.argv[1] + "/set.json").objects
mask = regions.extras["masks"][0]
print(json.dumps([regions.boxes.tolist(), mask.tolist(), regions.label_names, entry.box]))
"""
    boxes, mask, labels, of_set = json.loads(python(code, tmp_path).stdout)
    assert boxes == [[2 * (20 - 13), 2 * 10, 2 * (20 - 5), 2 * 30]]
    assert labels == ["cup"]
    assert of_set == [2 * (20 - 12), 2 * 1, 2 * (20 - 2), 2 * 21]
    here = read_evaluation_set(tmp_path / "set.json").objects[0].box
    (regions,) = StoredBoxes(tmp_path / "coco.json", masks=True).detect([read_photo(tmp_path / "a.jpg")])
    assert (list(here or ()), regions.boxes.tolist(), regions.extras["masks"].tolist()) == (of_set, boxes, [mask])


def test_the_commands_of_an_index(tmp_path: Path) -> None:
    made(tmp_path / "a", 0, 1, 2)
    made(tmp_path / "b", 2, 3)
    assert json.loads(run("info", tmp_path / "a", "--json").stdout)["images"] == 3
    run("verify", tmp_path / "a")
    run("merge", tmp_path / "a", tmp_path / "b", "--on-collision", "keep")
    run("delete", tmp_path / "a", "0.jpg")
    run("compact", tmp_path / "a")
    assert [image.id for image in Index.open(tmp_path / "a").images()] == ["1.jpg", "2.jpg", "3.jpg"]


def test_an_exported_model_indexes_searches_and_detects(tmp_path: Path) -> None:
    """With PyTorch and without it: the same rows and answers, of files of several kinds and sizes."""
    pytest.importorskip("onnxruntime")
    model, photos = write_model(tmp_path / "model", decode_side=40), tmp_path / "photos"
    photos.mkdir()
    for number, (height, width) in enumerate([(20, 30), (400, 600), (1, 1), (1, 300), (30, 20)]):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 4 else 1
        Image.fromarray(noise).save(photos / f"{number}.{'jpg' if number in (1, 4) else 'png'}", exif=exif)
    Image.new("RGBA", (9, 9), (10, 20, 30, 0)).save(photos / "alpha.png")
    Image.fromarray(np.full((5, 6), 30_000, np.uint16)).save(photos / "deep.png")
    (photos / "broken.jpg").write_bytes((photos / "1.jpg").read_bytes()[:300])
    made = run("index", photos, "-o", tmp_path / "i", "--model", model, "--threads", 1, "--json", code=3)
    assert (json.loads(made.stdout)["images"], json.loads(made.stdout)["regions"]) == (7, 21)
    assert "broken.jpg" in (tmp_path / "i.skipped.jsonl").read_text()

    assert (
        CliRunner()
        .invoke(command_line(), ["index", str(photos), "-o", str(tmp_path / "j"), "--model", str(model)])
        .exit_code
        == 3
    )
    without, with_torch = Index.open(tmp_path / "i"), Index.open(tmp_path / "j")
    for image in with_torch.images():
        mine, other = without.get(image.id), with_torch.get(image.id)
        np.testing.assert_array_equal(mine.regions.boxes, other.regions.boxes)
        np.testing.assert_array_equal(mine.vectors, other.vectors)
    for arguments in (
        [],
        ["--box", "60,80,300,240"],
        ["--auto"],
        ["--whole"],
        ["--box", "60,80,300,240", "--crop", "crop"],
    ):
        answer = json.loads(run("search", tmp_path / "i", photos / "1.jpg", "--json", *arguments).stdout)
        assert answer["hits"][0]["image"] == "1.jpg" or "crop" in arguments
        expected = CliRunner().invoke(
            command_line(), ["search", str(tmp_path / "j"), str(photos / "1.jpg"), "--json", *arguments]
        )
        assert answer["hits"] == json.loads(expected.stdout)["hits"]
    found = json.loads(run("detect", photos / "4.jpg", "--model", model, "--json").stdout)
    assert [o["label"] for o in found["images"][0]["objects"]] == ["pot", "cup"]
    assert found["images"][0]["size"] == [20, 30]
    run("model", "info", model)
    for box, message in (("nan,0,3,3", "--box"), ("0,0,601,400", "inside the image of 600 x 400")):
        assert message in run("search", tmp_path / "i", photos / "1.jpg", "--box", box, code=2).stderr


#: Re-rankers of vectors and boxes alone; diffusion needs SciPy.
WITHOUT_NETWORKS = (
    "query_expansion,top=2",
    "query_expansion,top=3,alpha=3",
    "database_augmentation,top=3",
    "region_expansion,top=3",
    "region_match",
    "diffusion,neighbours=4,query_neighbours=3",
)


def test_rerankers_that_need_no_network_give_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, photos = write_model(tmp_path / "model"), tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        colour = np.random.default_rng(number).integers(0, 256, 3)
        Image.new("RGB", (20 + number, 30), tuple(colour.tolist())).save(photos / f"{number}.png")
    run("index", photos, "-o", tmp_path / "i", "--model", model)
    plain = [h["image"] for h in searched(tmp_path / "i", photos / "3.png", ())]
    changed = 0
    for step in WITHOUT_NETWORKS:
        if step.startswith("diffusion"):
            pytest.importorskip("scipy")
        arguments = ("search", tmp_path / "i", photos / "3.png", "--json", "--rerank", step)
        hits = json.loads(run(*arguments).stdout)["hits"]
        expected = searched(tmp_path / "i", photos / "3.png", ("--rerank", step))
        assert [h["image"] for h in hits] == [h["image"] for h in expected], step
        assert [h["box"] for h in hits] == [h["box"] for h in expected], step
        np.testing.assert_allclose([h["score"] for h in hits], [h["score"] for h in expected], rtol=1e-5)
        changed += [h["image"] for h in hits] != plain
    assert changed >= 3, "they do not rank as a plain search does"


def searched(index: Path, photo: Path, options: tuple[str, ...]) -> list[dict[str, object]]:
    """The hits of ``objemb search`` here, where PyTorch is installed."""
    done = CliRunner().invoke(command_line(), ["search", str(index), str(photo), "--json", *options])
    assert done.exit_code == 0, done.output
    hits: list[dict[str, object]] = json.loads(done.stdout)["hits"]
    return hits


def test_rerankers_of_an_exported_model_say_what_they_need(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    settings = {**SETTINGS, "rerank": [{"name": "query_expansion", "top": 2}, {"name": "spatial_verification"}]}
    model = write_model(tmp_path / "model", settings=settings)
    Image.new("RGB", (20, 20), (9, 90, 0)).save(tmp_path / "a.png")
    run("index", tmp_path / "a.png", "-o", tmp_path / "i", "--model", model)
    search = ("search", tmp_path / "i", tmp_path / "a.png")
    needs = "rerank: 'spatial_verification' needs PyTorch: pip install 'objemb[torch]'"
    assert needs in run(*search, code=2).stderr
    assert needs in run(*search, "--rerank", "spatial_verification", code=2).stderr
    run(*search, "--rerank", "none")
    run(*search, "--rerank", "query_expansion")
    stderr = run(*search, "--rerank", "region_match,look=true", code=2).stderr
    assert "expected the describer of a PyTorch model" in stderr
    assert "an exported model does not have one" in stderr


def test_what_needs_a_network_says_what_to_install(tmp_path: Path) -> None:
    made(tmp_path / "index", 1)
    photo, model = tmp_path / "a.png", tmp_path / "of_torch"
    Image.new("RGB", (20, 20)).save(photo)
    settings = {"describer": {"name": "one_pass"}, "aggregator": {"name": "keep"}, "rerank": []}
    write_folder(model, {"fingerprint": "some model", "settings": settings}, lambda partial: None, force=False)
    for arguments in (
        ("model", "build", "gem", "-o", tmp_path / "model"),
        ("index", photo, "-o", tmp_path / "other", "--model", model),
        ("search", tmp_path / "index", photo, "--model", model),
        ("detect", photo, "--model", model, "-o", tmp_path / "boxes.json"),
        ("train", "detect_products", "-o", tmp_path / "run"),
    ):
        stderr = run(*arguments, code=2).stderr
        assert "needs PyTorch: pip install 'objemb[torch]'" in stderr, (arguments, stderr)


def test_an_index_is_served(tmp_path: Path) -> None:
    for library in ("onnxruntime", "fastapi", "uvicorn", "prometheus_client", "multipart"):
        pytest.importorskip(library)
    httpx = pytest.importorskip("httpx")
    Image.new("RGB", (30, 20), (9, 90, 0)).save(tmp_path / "a.png")
    run("index", tmp_path / "a.png", "-o", tmp_path / "i", "--model", write_model(tmp_path / "model"))
    environment = {**os.environ, "PYTHONPATH": str(Path(objemb.__file__).parents[1])}
    code = BLOCKED + "from objemb.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "serve", str(tmp_path / "i"), "--port", "0", "--decoders", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            url = process.stderr.readline().partition(": serving")[0]
            assert url.startswith("http://127.0.0.1:"), url + process.stderr.read()
            answer = httpx.post(f"{url}/v1/search", files={"photo": (tmp_path / "a.png").read_bytes()}, timeout=60)
            assert answer.json()["hits"][0]["image"] == "a.png"
        finally:
            process.terminate()
    assert process.returncode == 0


def test_the_doctor_distinguishes_missing_from_broken_packages() -> None:
    report = json.loads(run("doctor", "--json").stdout)
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert report["healthy"]
    assert {states[name] for name in ("processor", "accelerator", "model")} == {"missing"}
    assert {states[name] for name in ("numpy", "reading images", "index")} == {"ok"}
    (found,) = (check["detail"] for check in report["checks"] if check["name"] == "model")
    assert found == "needs PyTorch (pip install 'objemb[torch]')"


def test_a_name_of_the_package_that_needs_it_says_what_to_install() -> None:
    code = """
import objemb
try:
    objemb.Model
except ImportError as error:
    print(error)
"""
    assert python(code).stdout == "objemb.Model needs PyTorch: pip install 'objemb[torch]'\n"
