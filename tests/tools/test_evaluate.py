from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from objemb.config import load_config, resolve
from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.evaluation.evaluate import evaluate
from objemb.evaluation.retrieval_task import make_task
from objemb.models import build_model, open_model
from tests.evaluation.colours import write_set
from tests.runtimes.models import FINGERPRINT, write_model
from tests.small_settings import STUDENT
from tests.tools.conftest import OVERRIDES, SMALL

TOOL = Path(__file__).parents[2] / "tools" / "evaluate.py"


def test_several_methods_give_one_table(
    tool: ModuleType, set_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "new" / "out.json", tmp_path / "new" / "out.md"
    methods = ["mac", *SMALL, "gem,pooling.p=2.0"]
    report = tool.main([*methods, "--set", str(set_file), "-o", str(out), "--markdown", str(table)])
    assert json.loads(out.read_text()) == json.loads(json.dumps(report))
    assert table.read_text() == capsys.readouterr().out
    mac, gem = report["results"]
    assert (mac["method"], gem["method"]) == ("mac", "gem, pooling.p=2.0")
    assert gem["settings"]["describer"]["pooling"]["p"] == 2.0
    assert mac["settings"]["describer"]["pooling"]["name"] == "max"
    assert all(r["settings"]["describer"]["extractor"]["size"] == 64 for r in (mac, gem))
    assert len({mac["fingerprint"], gem["fingerprint"]}) == 2
    assert set(mac["scores"]) == {"mAP", "P@1", "P@5", "mP@5", "mP@10"}
    assert (mac["queries"], mac["skipped"], mac["storage"]["vectors_per_image"]) == (2, 0, 1.0)
    assert report["set"]["level"] == "image"
    assert report["environment"]["command"].startswith("objemb evaluate mac backbone.arch=squeezenet1_1")
    assert report["environment"]["versions"]["objemb"]


def test_object_level_and_picked_queries(tool: ModuleType, set_file: Path) -> None:
    command = ["hard_attention_crop", *SMALL, "--set", str(set_file), "--level", "object"]
    report = tool.main([*command, "--queries", "kind=patch"])
    assert report["set"]["database"] == 6
    assert report["results"][0]["queries"] == 1
    assert report["results"][0]["storage"]["vectors_per_image"] == 2.0
    assert tool.main([*command, "--all-objects-as-queries"])["results"][0]["queries"] == 6


def test_photos_as_queries_with_what_the_detector_finds_in_them(
    tool: ModuleType, set_file: Path, coco_file: Path, tmp_path: Path
) -> None:
    detector = f"regions.detector={{name: stored_boxes, file: {coco_file}}}"
    command = ["hard_attention_crop", detector, *SMALL, "--set", str(set_file), "--cache", str(tmp_path / "cache")]
    rows = {}
    for word in ("whole", "detector", "both", "both"):
        report = tool.main([*command, "--photos-as-queries", "--query-boxes", word])
        (result,) = report["results"]
        assert (result["query_boxes"], report["set"]["photos_as_queries"]) == (word, True)
        assert [q["box"] for q in result["per_query"]] == [None, None]
        assert result["by_query_size"]["whole photo"]["queries"] == 2
        rows[word] = result
    assert rows["both"]["descriptors_from_cache"] == ["database", "queries"]
    assert rows["detector"]["descriptors_from_cache"] == ["database"]
    with pytest.raises(ValueError, match="expected a model with a detector"):
        tool.main(["mac", *SMALL, "--set", str(set_file), "--query-boxes", "both"])


def test_boxes_at_image_level_give_localisation(tool: ModuleType, set_file: Path, coco_file: Path) -> None:
    report = tool.main(["hard_attention_crop", *SMALL, "--set", str(set_file), "--boxes", str(coco_file)])
    assert report["results"][0]["storage"]["vectors_per_image"] == 3.0
    assert report["results"][0]["localisation"]["boxes"] == 3


def test_whitening_on_the_evaluation_photos_is_warned_of(
    tool: ModuleType, set_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["hard_attention_crop", *SMALL, "--set", str(set_file), "--whiten-dim", "2"]
    report = tool.main([*command, "--whiten-on", str(set_file.parent)])
    assert report["results"][0]["dim"] == 2
    assert "the whitening was fitted on 4 photos of the evaluation set" in report["results"][0]["warnings"][0]
    assert "the whitening was fitted on 4 photos of the evaluation set" in capsys.readouterr().err


def speckle(folder: Path, seed: int) -> None:
    """Photos of the same things are no longer alike in every pixel."""
    generator = np.random.default_rng(seed)
    for file in sorted(folder.glob("*.png")):
        pixels = np.asarray(Image.open(file)) // 2 + generator.integers(0, 120, 3, dtype=np.uint8)
        Image.fromarray(pixels + generator.integers(0, 9, pixels.shape, dtype=np.uint8)).save(file)


def test_whitening_learned_from_pairs(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    """The pairs of the set itself, which is told, and those of other photos."""
    (tmp_path / "other").mkdir()
    pairs = write_set(tmp_path / "other")
    speckle(set_file.parent, 0)
    speckle(pairs.parent, 1)
    command = ["hard_attention_crop", *SMALL, "--set", str(set_file), "--level", "object", "--whiten-dim", "2"]
    results = [tool.main([*command, "--whiten-pairs", str(of), "--whiten-ridge", "1"]) for of in (set_file, pairs)]
    own, others = (report["results"][0] for report in results)
    assert own["dim"] == others["dim"] == 2
    assert own["fingerprint"] != others["fingerprint"]
    assert "the whitening was fitted on 4 photos of the evaluation set" in own["warnings"][0]
    assert others["warnings"] == []


def test_a_model_folder_is_a_method(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    model = build_model(load_config("mac", OVERRIDES))
    model.save(tmp_path / "model")
    found = tool.main([str(tmp_path / "model"), "--set", str(set_file)])["results"][0]
    assert (found["method"], found["fingerprint"]) == ("model", model.fingerprint)
    with pytest.raises(ValueError, match=r"expected a config for aggregator\.name=sum, found a model folder"):
        tool.main([f"{tmp_path / 'model'},aggregator.name=sum", "--set", str(set_file)])
    with pytest.raises(ValueError, match=r"expected a config for aggregator\.name=sum, found model folders only"):
        tool.main([str(tmp_path / "model"), "aggregator.name=sum", "--set", str(set_file)])


def test_problems_are_reported(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_set(tmp_path)
    (tmp_path / "c.png").write_bytes(b"")
    assert tool.main(["mac", *SMALL, "--set", str(path)])["results"][0]["problems"][0].startswith("c.png")
    assert "mac: c.png" in capsys.readouterr().err


def test_a_codebook_of_the_evaluation_photos_by_content_is_warned_of(
    tool: ModuleType, set_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(tmp_path / "a.png", other / "renamed.png")
    for n in range(6):
        Image.effect_noise((40, 40), 50 + n).convert("RGB").save(other / f"{n}.png")
    command = ["mac", *SMALL, "pooling.name=netvlad", "pooling.clusters=2", "--set", str(set_file)]
    (result,) = tool.main([*command, "--fit-on", str(other)])["results"]
    assert "was fitted on 1 photo of the evaluation set" in result["warnings"][0]
    assert result["warnings"][0].startswith("the pooling ")


def test_what_a_network_was_trained_on_counts_as_well(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    model = build_model(load_config("mac", OVERRIDES))
    data = {"name": "mixture", "parts": [{"name": "photos", "sources": str(set_file.parent), "images": "x"}]}
    replace(model, provenance={"training": {"data": data}}).save(tmp_path / "trained")
    found = tool.main([str(tmp_path / "trained"), "--set", str(set_file)])["results"][0]
    assert found["warnings"][0].startswith("the network was fitted on 4 photos")
    weights = f"backbone.weights={tmp_path / 'trained'}"
    found = tool.main(["mac", *SMALL, weights, "--set", str(set_file)])["results"][0]
    assert found["warnings"][0].startswith("the describer.backbone.weights of the network was fitted on 4 photos")


def test_rerankers_of_the_command_line_and_of_a_config(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    command = ["mac", *SMALL, "--set", str(set_file)]
    steps = ["--rerank", "query_expansion,top=2,alpha=3", "--rerank", "query_expansion,top=1"]
    (result,) = tool.main([*command, *steps])["results"]
    assert [(s["top"], s["alpha"]) for s in result["settings"]["rerank"]] == [(2, 3), (1, 0.0)]
    assert "rerank_per_query" in result["seconds"]
    assert result["method"] == "mac + query_expansion,top=2,alpha=3 + query_expansion,top=1"
    (own,) = tool.main(["mac,rerank=[{name: query_expansion, top: 2}]", *SMALL, "--set", str(set_file)])["results"]
    assert own["settings"]["rerank"][0]["top"] == 2
    assert own["fingerprint"] == result["fingerprint"] == tool.main(command)["results"][0]["fingerprint"]
    with pytest.raises(ValueError, match="rerank name"):
        tool.main([*command, "--rerank", "query_expnsion"])


def test_descriptors_are_kept_and_reported(
    tool: ModuleType, set_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*more: str) -> dict[str, Any]:
        command = ["mac", *SMALL, "--set", str(set_file), "--cache", str(tmp_path / "cache")]
        (result,) = tool.main([*command, *more])["results"]
        return result  # type: ignore[no-any-return]

    (tmp_path / "c.png").write_bytes(b"")  # problems are kept as well
    first, again = run(), run()
    assert (first["descriptors_from_cache"], again["descriptors_from_cache"]) == ([], ["database", "queries"])
    for key in ("scores", "problems", "per_query", "by_query_size", "by_object_size", "precision_recall"):
        assert again[key] == first[key]
    assert again["seconds"]["describe_per_image"] == first["seconds"]["describe_per_image"]
    assert run("--queries", "kind=patch")["descriptors_from_cache"] == ["database"]
    assert run("--crop", "crop")["descriptors_from_cache"] == ["database"]
    assert run("--level", "object", "--crop", "scaled")["descriptors_from_cache"] == []
    assert run("--level", "object", "--crop", "crop")["descriptors_from_cache"] == [], "both sides are seen otherwise"
    assert run("pooling.name=mean")["descriptors_from_cache"] == []
    os.utime(tmp_path / "a.png")
    assert run()["descriptors_from_cache"] == []
    for file in (tmp_path / "cache").glob("*/vectors.npy"):
        file.write_bytes(b"half")
    capsys.readouterr()
    assert run()["descriptors_from_cache"] == []
    assert "damaged" in capsys.readouterr().err


def test_boxes_of_a_file_are_part_of_what_is_kept(
    tool: ModuleType, set_file: Path, coco_file: Path, tmp_path: Path
) -> None:
    command = ["hard_attention_crop", *SMALL, "--set", str(set_file), "--cache", str(tmp_path / "cache")]
    command += ["--boxes", str(coco_file)]
    assert tool.main(command)["results"][0]["storage"]["vectors"] == 9
    coco_file.write_text(coco_file.read_text().replace("[20, 0, 20, 20]", "[21, 0, 19, 20]"))
    assert tool.main(command)["results"][0]["descriptors_from_cache"] == ["queries"]


def test_what_does_not_go_together(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    same = write_set(tmp_path / "other")
    for more, message in (
        ([], "--set or --dataset: expected at least one"),
        (["--dataset", "folder"], "--dataset, --root: expected both or none"),
        (["--set", "s.json", "--whiten-on", "p", "--whiten-pairs", "q"], "--whiten-on, --whiten-pairs: expected one"),
        (
            ["--set", "s.json", "--whiten-dim", "8"],
            "--whiten-dim: expected together with --whiten-on or --whiten-pairs",
        ),
        (["--set", "s.json", "--whiten-ridge", "1"], "--whiten-ridge: expected together with --whiten-pairs"),
        (
            ["--set", str(set_file), "--box-sources", "grid", "--level", "object"],
            "--box-sources: expected --level image",
        ),
        (["--set", str(set_file), "--projector-vectors", "0"], "--projector-vectors: expected 1 to"),
        (["--set", str(set_file), "--set", str(same)], "sets of different names"),
        (["mac", "--set", str(set_file)], "expected different methods, found mac more than once"),
        (
            ["gem", "--set", str(set_file), "--reference", "gme"],
            r"--reference: .*'gem', or its position from 1 to 2, found",
        ),
        (["gem", "--set", str(set_file), "--reference", "3"], "position from 1 to 2, found '3'"),
        (["gem", "--set", str(set_file), "--reference", "gme"], "did you mean 'gem'"),
        (
            ["--set", str(set_file), "--reference", "mac"],
            "--reference: expected at least two methods to compare, found only mac",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            tool.main(["mac", *SMALL, *more])
    for wrong in (["--box-sources", "truth"], ["--regions", "-1"], ["--datasets", "a,a"]):
        with pytest.raises(SystemExit):
            tool.main(["mac", "--set", str(set_file), *wrong])


def test_mistakes_end_in_one_line_and_exit_code_2(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="METHOD: expected at least one"):
        tool.main(["backbone.arch=vgg16", "--set", str(set_file)])
    with pytest.raises(ValueError, match="did you mean"):
        tool.main(["mac", "backbone.arh=vgg16", "--set", str(set_file)])
    command = [sys.executable, str(TOOL), "mac", "--set", str(tmp_path / "none.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "none.json: expected a JSON file" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_half_a_character_in_a_name_does_not_lose_the_report(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    set_file.write_text(set_file.read_text().replace('"green"', '"green\\ud800"'))
    tool.main(["mac", *SMALL, "--set", str(set_file), "--report", str(tmp_path / "report")])
    (page,) = (tmp_path / "report").glob("failures_*.html")
    assert "\\ud800" in page.read_text(encoding="utf-8")


def test_unusable_boxes_of_a_file_are_reported(
    tool: ModuleType, set_file: Path, coco_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["hard_attention_crop", *SMALL, "--set", str(set_file), "--boxes", str(coco_file)]
    coco = json.loads(coco_file.read_text())
    coco["images"][0]["width"] = 30
    coco_file.write_text(json.dumps(coco))
    report = tool.main(command)
    assert report["results"][0]["storage"]["vectors"] == 7
    assert "left out: expected a photo of 30 x 20 pixels" in "".join(report["results"][0]["problems"])
    assert "a.png: the boxes of" in capsys.readouterr().err
    coco_file.write_text(json.dumps(coco).replace(".png", ".jpg"))
    with pytest.raises(ValueError, match="none among its 6 that can be used"):
        tool.main(command)
    with pytest.raises(ValueError, match="none among its 6 that can be used"):
        tool.main([*command[:-2], "--whiten-on", str(set_file.parent), "--whiten-boxes", str(coco_file)])
    assert f"boxes: 0 of 6 boxes of {coco_file} were used" in capsys.readouterr().err


def test_an_object_outside_its_photo_is_reported_with_its_file(tool: ModuleType, set_file: Path) -> None:
    data = json.loads(set_file.read_text())
    data["objects"][0]["box"] = [0, 0, 50, 20]
    set_file.write_text(json.dumps(data))
    report = tool.main(["hard_attention_crop", *SMALL, "--set", str(set_file), "--level", "object"])
    file = data["objects"][0]["file"]
    assert report["results"][0]["problems"] == [
        f"{file}: expected boxes inside 40 x 20 pixels, found (0.0, 0.0, 50.0, 20.0)"
    ]


def test_an_exported_model(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "exported", settings=resolve({"describer": STUDENT}))
    cache, command = tmp_path / "cache", [str(folder), "--set", str(set_file), "--regions", "0,1", "--cache"]
    (result,) = tool.main([*command, str(cache)])["results"]
    assert result["computation"]["runtime"] == "onnxruntime"
    assert result["fingerprint"] == FINGERPRINT
    assert result["cost"]["milliseconds"] > 0
    assert result["cost"]["ratio"] is None
    assert [point["vectors_per_image"] for point in result["by_regions"]] == [1.0, 2.0]
    direct = open_model(folder)
    data = read_evaluation_set(set_file)
    expected = evaluate(direct, data, make_task(data)).scores.means
    assert result["scores"] == pytest.approx(expected)
    assert tool.main([*command, str(cache)])["results"][0]["descriptors_from_cache"] == ["database", "queries"]
    (other,) = tool.main([*command, str(cache), "--runtime", "openvino", "--rerank", "query_expansion"])["results"]
    assert other["descriptors_from_cache"] == []
    assert other["computation"]["runtime"] == "openvino"
    assert [step["name"] for step in other["settings"]["rerank"]] == ["query_expansion"]


def test_the_cache_tells_graphs_of_one_model_apart(tmp_path: Path) -> None:
    """Two exports in 8 bits, calibrated on other photos, have one fingerprint, one precision and one runtime."""
    first, second = (open_model(write_model(tmp_path / str(k), max_detections=k)) for k in (2, 3))
    assert first.fingerprint == second.fingerprint
    assert first.computation == open_model(tmp_path / "2").computation
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "2", other)
    card = json.loads((other / "model.json").read_text())
    graph = (other / "boxes.onnx").read_bytes() + b"\x72\x02\x0a\x00"  # an empty entry of its metadata
    (other / "boxes.onnx").write_bytes(graph)
    card["files"]["boxes.onnx"] = {"bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
    (other / "model.json").write_text(json.dumps(card))
    assert open_model(other).computation != first.computation


def test_an_exported_model_is_not_fitted(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    command = [str(write_model(tmp_path / "exported")), "--set", str(set_file)]
    for option in ("--fit-on", "--whiten-on"):
        with pytest.raises(ValueError, match=f"{option}: expected a model that runs in PyTorch, found the exported"):
            tool.main([*command, option, str(set_file.parent)])
