from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import objemb
from objemb.cli.app import command_line
from objemb.config import method_files
from objemb.disk import file_sha256
from objemb.index.store import Index
from objemb.models import build_model, load_model, save_model
from tests.cli.conftest import Run, draw, parsed
from tests.models.conftest import SETTINGS

BUILD = (
    "hard_attention_crop",
    "backbone.arch=mobilenet_v3_small",
    "backbone.weights=random",
    "backbone.layer=features.3",
    "extractor.size=64",
)


def test_build_and_info(run: Run, tmp_path: Path) -> None:
    built = parsed(run("model", "build", *BUILD, "-o", tmp_path / "m", "--json"))
    assert built["fingerprint"] == load_model(tmp_path / "m").fingerprint
    assert built["settings"]["describer"]["extractor"]["size"] == 64
    assert built["provenance"]["command"][0] == "objemb"
    assert parsed(run("model", "info", tmp_path / "m", "--json")) == built
    shown = run("model", "info", tmp_path / "m").stdout
    assert built["fingerprint"] in shown
    assert "arch: mobilenet_v3_small" in shown


def test_build_with_a_whitening(run: Run, photos: Path, tmp_path: Path) -> None:
    more = ("--whiten-on", photos, "--boxes", tmp_path / "boxes.json", "--whiten-dim", 4, "--whiten-power", 0.25)
    built = parsed(run("model", "build", *BUILD, "-o", tmp_path / "m", *more, "--json"))
    assert built["dim"] == 4
    assert built["whitening"]["power"] == 0.25
    assert "12 regions of 6 photos" in built["whitening"]["fitted_on"]
    assert load_model(tmp_path / "m").dim == 4


ALEXNET = ("backbone.arch=alexnet", "backbone.weights=random")
NETVLAD = (*BUILD, "describer.pooling={name: netvlad, clusters: 3}")


def test_build_with_parts_to_fit(run: Run, photos: Path, tmp_path: Path) -> None:
    more = ("--fit-on", photos, "--boxes", tmp_path / "boxes.json")
    built = parsed(run("model", "build", *NETVLAD, "-o", tmp_path / "m", *more, "--json"))
    assert list(built["fitted"]) == ["pooling"]
    assert f"768 vectors of 6 photos: {photos}" in built["fitted"]["pooling"]["fitted_on"]
    assert f"768 vectors of 6 photos: {photos}" in run("model", "info", tmp_path / "m").stdout
    whitened = parsed(run("model", "build", *NETVLAD, "-o", tmp_path / "w", "--whiten-on", photos, "--json"))
    assert whitened["fitted"]
    assert "6 regions of 6 photos" in whitened["whitening"]["fitted_on"]


def test_build_with_a_whitening_from_pairs(run: Run, photos: Path, tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / "things" / str(number % 3)).mkdir(parents=True, exist_ok=True)
        (photos / f"{number}.png").rename(tmp_path / "things" / str(number % 3) / f"{number}.png")
    more = ("--whiten-pairs", tmp_path / "things", "--whiten-dim", 2, "--whiten-ridge", 1)
    built = parsed(run("model", "build", *BUILD, "-o", tmp_path / "m", *more, "--json"))
    assert built["whitening"]["power"] == 0
    assert built["whitening"]["dim"] == 2
    assert built["whitening"]["fitted_on"].startswith("3 pairs, 6 regions of 6 photos")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*NETVLAD, "-o", "m"], "netvlad: expected a fitted part, found an unfitted one; add --fit-on PHOTOS"),
        ([*BUILD, "--fit-on", ".", "-o", "m"], "--fit-on: expected a method with parts to fit such as netvlad"),
        ([*BUILD, "--whiten-on", ".", "--whiten-pairs", ".", "-o", "m"], "expected one of them, found both"),
        ([*BUILD, "--whiten-on", ".", "--whiten-ridge", "1", "-o", "m"], "--whiten-pairs, found alone"),
        ([*BUILD, "--whiten-pairs", "nowhere", "-o", "m"], "nowhere"),
        (
            [*BUILD, "--boxes", "boxes.json", "-o", "m"],
            "--boxes: expected together with --fit-on PHOTOS or --whiten-on",
        ),
        (["nowhere.yaml", "-o", "m"], "nowhere.yaml"),
        (["rmacc", "-o", "m"], "did you mean 'rmac'"),
        (["rmac", "backbone.archh=x", "-o", "m"], "did you mean 'arch'"),
        (["rmac", "backbone.arch=resnet5", "backbone.weights=random", "-o", "m"], "resnet50"),
        (["rmac", "backbone.arch=alexnet", "backbone.weights=nowhere.pth", "-o", "m"], "nowhere.pth"),
        (["rmac", *ALEXNET, "extractor.size=-1", "-o", "m"], "size: expected a number above 0"),
        (["rmac", "--whiten-dim", "4", "-o", "m"], "--whiten-on"),
        (["rmac", *ALEXNET, "--whiten-on", "nowhere", "-o", "m"], "nowhere"),
        (
            [*NETVLAD, "--fit-on", "nowhere", "--whiten-on", "nowhere", "--whiten-dim", "99999", "-o", "m"],
            "expected 1 to",
        ),
        (["rmac"], "-o"),
    ],
)
def test_wrong_builds_make_nothing(
    run: Run, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in run("model", "build", *arguments, code=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_not_overwritten_by_accident(run: Run, tmp_path: Path) -> None:
    run("model", "build", *BUILD, "-o", tmp_path / "m")
    assert "--force" in run("model", "build", *BUILD, "-o", tmp_path / "m", code=2).stderr
    run("model", "build", *BUILD, "extractor.margin=0.1", "-o", tmp_path / "m", "--force")
    assert load_model(tmp_path / "m").settings["describer"]["extractor"]["margin"] == 0.1


def test_an_existing_model_is_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    run("model", "build", *BUILD, "-o", tmp_path / "m")
    build = ("rmac", "backbone.arch=alexnet", "backbone.weights=nowhere.pth")
    assert "--force" in run("model", "build", *build, "-o", tmp_path / "m", code=2).stderr


def test_a_tampered_model_is_a_mismatch(run: Run, photos: Path, tmp_path: Path) -> None:
    save_model(build_model(SETTINGS), tmp_path / "m")
    data = bytearray((tmp_path / "m" / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "m" / "weights.safetensors").write_bytes(bytes(data))
    result = run("index", photos, "-o", tmp_path / "index", "--model", tmp_path / "m", code=4)
    assert "expected sha256" in result.stderr


def test_info(run: Run, index: Path) -> None:
    facts = parsed(run("info", index, "--json"))
    assert (facts["images"], facts["regions"]) == (6, 12)
    assert facts["model"]["settings"]["describer"]["extractor"]["size"] == 64, "the resolved config is saved with it"
    assert "images" in run("info", index).stdout
    assert "nowhere" in run("info", index.with_name("nowhere"), code=2).stderr


def test_verify(run: Run, index: Path) -> None:
    assert "intact" in run("verify", index).stdout
    vectors = next(index.glob("*.vectors"))
    data = bytearray(vectors.read_bytes())
    data[10] ^= 1
    vectors.write_bytes(bytes(data))
    found = parsed(run("verify", index, "--json", code=4))
    assert found["intact"] is False
    assert vectors.name in found["problems"][0]


def test_verify_lists_what_keeps_an_index_from_being_opened(run: Run, index: Path) -> None:
    vectors = next(index.glob("*.vectors"))
    vectors.write_bytes(vectors.read_bytes()[:-4])
    found = parsed(run("verify", index, "--json", code=4))
    assert f"{vectors.name}: expected" in found["problems"][0]
    (index / "manifest").write_bytes(b"nonsense")
    assert "header" in parsed(run("verify", index, "--json", code=4))["problems"][0]


def test_large_indexes_get_a_structure_and_keep_it(
    run: Run, photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr("objemb.index.searcher.APPROXIMATE_ROWS", 6)
    index = tmp_path / "index"
    command = ("index", photos, "-o", index, "--model", model)
    share = []
    run(*command)
    for number in range(6, 9):  # each photo is little, but they add up
        draw(photos / f"{number}.png", number)
        run(*command)
        share.append(Index.open(index).info()["approximate_share"])
    assert share == [pytest.approx(6 / 7), pytest.approx(6 / 8), 1]
    run("delete", index, "0.png")
    run("compact", index)
    assert Index.open(index).info()["approximate_share"] == 1


def test_a_damaged_index_is_never_a_traceback(run: Run, photos: Path, index: Path) -> None:
    (index / "manifest").write_bytes(b"nonsense")
    for arguments in (("info", index), ("search", index, photos / "0.png"), ("compact", index), ("verify", index)):
        run(*arguments, code=4)


def test_delete_by_id_and_by_filter_then_compact(run: Run, index: Path) -> None:
    gone = parsed(run("delete", index, "0.png", "nothing.png", "--json"))
    assert (gone["deleted"], gone["unknown"], gone["images"]) == (1, ["nothing.png"], 5)
    assert "2 deleted, 3 left" in run("delete", index, "--where", "label = green").stdout
    assert sorted(Index.open(index).stamps()) == ["2.png", "3.png", "5.png"]
    done = parsed(run("compact", index, "--json"))
    assert done["compacted"] is True
    assert done["after"]["bytes"] < done["before"]["bytes"]
    assert "nothing to do" in run("compact", index).stdout
    assert "found neither" in run("delete", index, code=2).stderr
    assert "found both" in run("delete", index, "2.png", "--where", "label = red", code=2).stderr


def test_merge(run: Run, photos: Path, model: Path, rmac: Path, index: Path, tmp_path: Path) -> None:
    for number in range(5):
        (photos / f"{number}.png").unlink()
    (photos / "5.png").rename(photos / "new.png")
    run("index", photos, "-o", tmp_path / "other", "--model", model)
    assert parsed(run("merge", index, tmp_path / "other", "--json"))["images"] == 7
    assert "new.png" in run("merge", index, tmp_path / "other", code=2).stderr
    assert "7 images" in run("merge", index, tmp_path / "other", "--on-collision", "keep").stdout
    run("index", photos, "-o", tmp_path / "foreign", "--model", rmac)
    run("merge", index, tmp_path / "foreign", code=4)


def test_auto_says_when_it_found_nothing(run: Run, photos: Path, detecting: Path, tmp_path: Path) -> None:
    run("index", photos, "-o", tmp_path / "i", "--model", detecting)
    (photo,) = sorted(photos.glob("0.png"))
    assert "no object was detected" not in run("search", tmp_path / "i", photo, "--auto").stderr
    settings = json.loads(json.dumps(SETTINGS))
    certain = json.loads((detecting / "model.json").read_text())["settings"]["describer"]["regions"]
    detector = {**certain["detector"], "weights": "random"}
    settings["describer"]["regions"] = {**certain, "detector": detector, "min_score": 1.0}
    build_model(settings).save(tmp_path / "blind")
    run("index", photos, "-o", tmp_path / "j", "--model", tmp_path / "blind")
    assert "no object was detected" in run("search", tmp_path / "j", photo, "--auto").stderr


@pytest.fixture(scope="session")
def detecting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a detector: a tiny random Faster R-CNN, every box of which is kept."""
    folder = tmp_path_factory.mktemp("models") / "detecting"
    settings = json.loads(json.dumps(SETTINGS))
    settings["describer"]["regions"] = {
        "name": "detections",
        "min_score": 0.0,
        "max_regions": 3,
        "detector": {
            "name": "torchvision_rcnn",
            "arch": "fasterrcnn_mobilenet_v3_large_320_fpn",
            "weights": "random",
            "classes": ["thing", "stuff"],
            "score_threshold": 0.0,
            "min_size": 64,
            "max_size": 96,
        },
    }
    save_model(build_model(settings), folder)
    return folder


def test_unusable_boxes_to_fit_on_are_reported(run: Run, photos: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    coco = json.loads(boxes.read_text())
    boxes.write_text(json.dumps(coco).replace('"0.png"', '"x.png"'))
    more = ("--whiten-on", photos, "--boxes", boxes)
    assert "boxes: 0.png: expected an image of" in run("model", "build", *BUILD, "-o", tmp_path / "a", *more).stderr
    coco["images"][1]["width"] = 50
    boxes.write_text(json.dumps(coco))
    told = run("model", "build", *BUILD, "-o", tmp_path / "b", *more, code=3).stderr
    assert "boxes: 1.png: the boxes of" in told
    assert f"boxes: 5 of 6 boxes of {boxes} were used; 1 photos have none\n" in told
    assert (tmp_path / "b").is_dir()
    boxes.write_text(json.dumps(coco).replace(".png", ".jpg"))
    told = run("model", "build", *BUILD, "-o", tmp_path / "c", *more, code=2).stderr
    assert f"boxes: 0 of 6 boxes of {boxes} were used\n" in told
    assert f"objemb: {boxes}: expected boxes of the photos, found none among its 6 that can be used" in told
    assert not (tmp_path / "c").exists()
    fit = ("model", "build", *NETVLAD, "-o", tmp_path / "c", "--fit-on", photos, "--boxes", boxes)
    assert "found none among its 6 that can be used" in run(*fit, code=2).stderr


def test_detect_writes_boxes_that_can_be_indexed(
    run: Run, photos: Path, model: Path, detecting: Path, tmp_path: Path
) -> None:
    (photos / "broken.png").write_bytes(b"")
    found = parsed(run("detect", photos, "--model", detecting, "-o", tmp_path / "coco.json", "--json", code=3))
    assert [i["image"] for i in found["images"]] == [f"{n}.png" for n in range(6)]
    assert found["skipped"] == 1
    boxes = sum(len(i["objects"]) for i in found["images"])
    assert boxes > 0
    assert {o["label"] for i in found["images"] for o in i["objects"]} <= {"thing", "stuff"}
    (photos / "broken.png").unlink()
    more = ("--boxes", tmp_path / "coco.json", "--json")
    indexed = parsed(run("index", photos, "-o", tmp_path / "index", "--model", model, *more))
    assert (indexed["regions"], indexed["box_problems"]) == (6 + boxes, 0)
    assert "0.png" in run("detect", photos, "--model", detecting).stdout


def test_detect_takes_the_photos_of_an_evaluation_set(run: Run, photos: Path, detecting: Path, tmp_path: Path) -> None:
    data = {"name": "s", "images": [{"file": "0.png", "instance": "a"}], "queries": [{"file": "1.png", "box": None}]}
    (photos / "set.json").write_text(json.dumps(data))
    found = parsed(run("detect", photos / "set.json", "--model", detecting, "--json"))
    assert [i["image"] for i in found["images"]] == ["0.png", "1.png"]
    (photos / "set.json").write_text(json.dumps({"images": [{"path": "0.png"}]}))
    refused = run("detect", photos / "set.json", "--model", detecting, "-o", tmp_path / "coco.json", code=2)
    assert "expected a list of at least one photo, found none in 1 entries" in refused.stderr
    assert not (tmp_path / "coco.json").exists()
    (tmp_path / "empty").mkdir()
    assert "no images were found in" in run("detect", tmp_path / "empty", "--model", detecting).stderr


def test_indexing_and_searching_with_the_own_detector(run: Run, photos: Path, detecting: Path, tmp_path: Path) -> None:
    report = parsed(run("index", photos, "-o", tmp_path / "index", "--model", detecting, "--max-regions", 1, "--json"))
    assert report["regions"] <= 12
    found = parsed(run("search", tmp_path / "index", photos / "0.png", "--auto", "--json"))
    assert found["hits"][0]["image"] == "0.png"
    assert 1 <= len(found["query"]["boxes"]) <= 3
    both = parsed(run("search", tmp_path / "index", photos / "0.png", "--json"))
    assert both["query"]["boxes"][0] == [0, 0, 120, 100]
    assert len(both["query"]["boxes"]) > 1
    assert all(box in found["query"]["boxes"] for box in both["query"]["boxes"][1:])
    assert all(hit["query_box"] in both["query"]["boxes"] for hit in both["hits"])
    whole = parsed(run("search", tmp_path / "index", photos / "0.png", "--whole", "--json"))
    assert whole["query"]["boxes"] == [[0, 0, 120, 100]]
    table = run("search", tmp_path / "index", photos / "0.png").stdout
    assert "query box" in table


def test_detect_needs_a_detector(run: Run, photos: Path, model: Path) -> None:
    assert "expected a model with a detector" in run("detect", photos, "--model", model, code=2).stderr


def test_detect_refuses_a_wrong_output_before_any_work(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    error = run("detect", photos, "--model", model, "-o", tmp_path / "nowhere" / "x.json", code=2).stderr
    assert "--output: expected a file in a folder that exists" in error


def test_doctor(run: Run, model: Path, tmp_path: Path) -> None:
    report = parsed(run("doctor", "--model", model, "--folder", tmp_path, "--json"))
    assert report["healthy"] is True
    assert {"torch", "model", "index", "reading images"} <= {c["name"] for c in report["checks"]}
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    broken = parsed(run("doctor", "--model", tmp_path, "--json", code=1))
    assert [c["name"] for c in broken["checks"] if c["state"] == "BAD"] == ["model"]
    assert re.search("^BAD +model ", run("doctor", "--model", tmp_path, code=1).stdout, re.MULTILINE)


def test_doctor_distinguishes_missing_extras_from_installed_ones(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name.startswith(("opencv", "scipy", "lightning")):
            if name == "opencv-contrib-python":
                return "4.12.0"
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    report = parsed(run("doctor", "--folder", tmp_path, "--json"))
    found = {c["name"]: (c["state"], c["detail"]) for c in report["checks"]}
    assert report["healthy"] is True
    assert found["opencv"] == ("ok", "4.12.0")
    assert found["scipy"] == ("missing", "optional, not installed (pip install 'objemb[methods]')")
    assert found["lightning"] == ("missing", "optional, not installed (pip install 'objemb[train]')")
    assert {"faiss-cpu", "timm", "matplotlib", "pycocotools", "tensorboard", "detectron2"} <= set(found)
    assert re.search("^missing +scipy +optional", run("doctor", "--folder", tmp_path).stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "typed", "expected"),
    [
        (
            "objemb model build",
            "hard_attention_",
            {"hard_attention_crop", "hard_attention_map", "hard_attention_pyramid", "hard_attention_union"},
        ),
        ("objemb search i q --crop", "", {"context", "crop", "scaled", "whole"}),
        ("objemb search i q --rerank", "region_", {"region_expansion", "region_match", "region_rerank"}),
        ("objemb search i q --device", "c", {"cpu", "cuda"}),
        ("objemb index p --precision", "", {"auto", "fp32", "bf16", "fp16"}),
        ("objemb index p --dtype", "", {"float32", "float16"}),
        ("objemb merge i j --on-collision", "", {"error", "replace", "keep"}),
    ],
)
def test_a_shell_completes_values(words: str, typed: str, expected: set[str]) -> None:
    line = f"{words} {typed}"
    environment = {"_OBJEMB_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words.split()))}
    shown = CliRunner().invoke(command_line(), [], prog_name="objemb", env=environment).stdout
    assert set(shown.split()) == expected


def test_help_and_version(run: Run) -> None:
    assert run("--version").stdout.strip() == objemb.__version__
    shown = run("--help").stdout
    for command in ("index", "search", "detect", "info", "verify", "delete", "compact", "merge", "model", "doctor"):
        assert command in shown
        run(command, "--help")


def test_the_origin_of_weights_is_shown(run: Run, photos: Path, tmp_path: Path) -> None:
    build = (*BUILD[:2], *BUILD[3:])  # without saying random
    wrong = run("model", "build", *build, "-o", tmp_path / "m", code=2)
    assert "describer.backbone.weights=random for random weights" in wrong.stderr
    assert not (tmp_path / "m").exists()
    untold = "note: random weights: describer.backbone"
    built = run("model", "build", *BUILD, "-o", tmp_path / "m")
    assert untold in built.stderr
    assert "weights of describer.backbone  random (seed 0)" in built.stdout
    assert untold in run("index", photos, "-o", tmp_path / "i", "--model", tmp_path / "m").stderr
    assert untold in run("search", tmp_path / "i", photos / "0.png").stderr
    assert "random weights" in run("info", tmp_path / "i").stdout
    file = tmp_path / "m" / "weights.safetensors"
    taken = (*build, f"backbone.weights={file}", "-o", tmp_path / "n")
    origins = parsed(run("model", "build", *taken, "--json"))["origins"]
    assert origins == {"describer.backbone": f"{file} (sha256 {file_sha256(file)})"}
    assert "random" not in run("index", photos, "-o", tmp_path / "j", "--model", tmp_path / "n").stderr
    assert "random" not in run("info", tmp_path / "j").stdout


@pytest.mark.parametrize("file", ["photos", "nowhere/out.html"])
def test_outputs_that_cannot_be_written_are_refused_before_any_work(
    run: Run, photos: Path, index: Path, tmp_path: Path, file: str
) -> None:
    message = f"expected a file in a folder that exists, found {tmp_path / file}"
    no_model = ("--model", tmp_path / "not even looked for")
    assert f"--output: {message}" in run("detect", photos, *no_model, "-o", tmp_path / file, code=2).stderr
    assert f"--html: {message}" in run("search", index, photos / "1.png", "--html", tmp_path / file, code=2).stderr


def test_a_model_does_not_replace_the_current_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    network = ("backbone.name=torchvision_cnn", "backbone.arch=squeezenet1_1", "backbone.weights=random")
    for name in (".", tmp_path / "here"):
        assert "found the current folder" in run("model", "build", "mean", *network, "-o", name, code=2).stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_the_methods_are_listed_with_a_line_each(run: Run) -> None:
    found = {m["name"]: m["about"] for m in parsed(run("model", "list", "--json"))["methods"]}
    assert found.keys() == method_files().keys()
    assert found["mac"] == "MAC: maximum activations of convolutions over the whole image, one vector per image"
    assert found["rmac_network"].endswith("learned with all below it"), "sentences go over lines"
    assert all(20 < len(about) < 260 and "#" not in about for about in found.values()), found
    shown = run("model", "list").stdout
    assert all(name in shown for name in found)
