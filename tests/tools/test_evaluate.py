from __future__ import annotations

import importlib
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

from objemb.config import load_config
from objemb.models import build_model
from tests.evaluation.colours import write_set

TOOL = Path(__file__).parents[2] / "tools" / "evaluate.py"
OVERRIDES = ["backbone.arch=squeezenet1_1", "backbone.weights=random", "extractor.size=64"]
SMALL = [*OVERRIDES, "--cost-photos", "0"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("objemb.cli.programs.evaluate")


@pytest.fixture
def set_file(tmp_path: Path) -> Path:
    return write_set(tmp_path)


@pytest.fixture
def coco_file(tmp_path: Path) -> Path:
    """Both patches of every photo."""
    images = [{"id": n, "file_name": f"{c}.png", "width": 40, "height": 20} for n, c in enumerate("abc")]
    annotations = [
        {"id": 2 * n + i, "image_id": n, "category_id": 1, "bbox": [20 * i, 0, 20, 20], "area": 400, "iscrowd": 0}
        for n in range(3)
        for i in range(2)
    ]
    boxes = tmp_path / "boxes.json"
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "patch"}]}
    boxes.write_text(json.dumps(coco))
    return boxes


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


def test_problems_are_told(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_descriptors_are_kept_and_told_of(
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


def test_a_matrix_with_a_set_and_a_method_that_fail(
    tool: ModuleType, set_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = tmp_path / "shop" / "folder"
    for name in ("red", "blue"):
        (folders / name).mkdir(parents=True)
        for n in range(2):
            Image.new("RGB", (16, 16 + n), name).save(folders / name / f"{n}.png")
    (tmp_path / "shop" / "roxford5k").mkdir()
    methods = ["--methods", "mac,gem,pooling.p=2.0,gem,pooling.p=-1.0"]
    sets = ["--set", str(set_file), "--datasets", "folder,roxford5k", "--root", str(tmp_path / "shop")]
    report = tool.main([*SMALL, *methods, *sets, "--report", str(tmp_path / "report")])
    cells = report["matrix"]["cells"]
    assert report["matrix"]["methods"] == ["mac", "gem, pooling.p=2.0", "gem, pooling.p=-1.0"]
    assert set(report["matrix"]["figures"].items()) == {("set", "mAP"), ("folder", "mAP"), ("roxford5k", "")}
    assert cells["mac"]["folder"]["score"] == 1.0
    assert "expected the files of the benchmark" in cells["mac"]["roxford5k"]["error"]
    assert cells["gem, pooling.p=-1.0"]["set"]["error"].startswith("ValueError: p: ")
    assert [s["name"] for s in report["sets"]] == ["set", "folder", "roxford5k"]
    assert json.loads((folders / "folder.json").read_text())["name"] == "folder"
    out = capsys.readouterr().out
    assert out.startswith("| method | set (mAP) | folder (mAP) | roxford5k |")
    assert "## folder" in out
    assert (tmp_path / "report" / "results.md").read_text().startswith(out)
    assert (tmp_path / "report" / "folder" / "failures_mac.html").is_file()
    assert (tmp_path / "report" / "set" / "failures_gem__pooling.p=2.0.html").is_file()


def test_parts_of_the_queries_and_shares_of_a_reference(
    tool: ModuleType, set_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["mac", "gem", *SMALL, "--set", str(set_file), "--reference"]
    report = tool.main([*command, "mac", "--report", str(tmp_path / "report")])
    mac, gem = report["results"]
    assert "share" not in mac
    assert gem["by_kind"].keys() == {"patch", "whole"}
    # the box has 20 of 40 pixels, as all objects; the other query has none
    counted = {size: of_size["queries"] for size, of_size in gem["by_query_size"].items() if of_size["queries"]}
    assert counted == {"38-75 %": 1, "whole photo": 1}
    assert gem["by_query_size"]["whole photo"] == gem["by_kind"]["whole"]
    assert [size for size, of_size in gem["by_object_size"].items() if of_size["queries"]] == ["38-75 %"]
    assert gem["by_object_size"]["38-75 %"]["mAP"] == pytest.approx(gem["scores"]["mAP"])
    shares = gem["share"]
    assert shares["of"] == "mac"
    assert shares["scores"]["mAP"] == pytest.approx(gem["scores"]["mAP"] / mac["scores"]["mAP"])
    for part in ("by_kind", "by_query_size", "by_object_size"):
        for group, of_group in shares[part].items():
            value, of = gem[part][group]["mAP"], mac[part][group]["mAP"]
            assert of_group["mAP"] == (None if value is None else pytest.approx(value / of))
    out = capsys.readouterr().out
    assert out.count("| gem: share of mac | ") == 4
    assert "| method | 38-75 % | whole photo |" in out
    names = {p.name for p in (tmp_path / "report").iterdir()}
    assert {"map_by_query_size.png", "map_by_object_size.png"} <= names
    assert tool.main([*command, "2"])["results"][0]["share"]["of"] == "gem"


def test_shares_on_several_sets_and_with_several_box_sources(
    tool: ModuleType, set_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    other = write_set(tmp_path / "other", name="other")
    crops = ["hard_attention_crop", "hard_attention_crop,pooling.name=max"]
    command = [*crops, *SMALL, "--set", str(set_file), "--set", str(other), "--box-sources", "ground_truth,whole"]
    report = tool.main([*command, "--reference", "hard_attention_crop"])
    compared = {r["method"]: r["share"]["of"] for r in report["results"] if "share" in r}
    assert compared == {
        f"hard_attention_crop, pooling.name=max [{source}]": f"hard_attention_crop [{source}]"
        for source in ("ground_truth", "whole")
    }
    cell = report["matrix"]["cells"]["hard_attention_crop, pooling.name=max [whole]"]["other"]
    (result,) = (r for r in report["results"] if r.get("set") == "other" and "max [whole]" in r["method"])
    assert cell == {
        "score": result["scores"]["mAP"],
        "share": result["share"]["scores"]["mAP"],
        "of": "hard_attention_crop [whole]",
    }
    title = "| hard_attention_crop, pooling.name=max [whole]: share of hard_attention_crop [whole] | "
    assert title in capsys.readouterr().out.partition("\n## ")[0]


def test_folders_of_one_name_are_told_apart(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "model", tmp_path / "b" / "model"]
    for folder, method in zip(folders, ("mac", "gem"), strict=True):
        build_model(load_config(method, OVERRIDES)).save(folder)
    command = [*map(str, folders), "--set", str(set_file), "--cost-photos", "0"]
    for reference in (str(folders[0]), "a/model", "1"):
        results = tool.main([*command, "--reference", reference])["results"]
        assert [r["method"] for r in results] == ["a/model", "b/model"]
        assert results[1]["share"]["of"] == "a/model"


def test_box_sources_and_numbers_of_regions(
    tool: ModuleType, set_file: Path, coco_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["hard_attention_crop", *SMALL, "--set", str(set_file), "--regions", "0,1,5", "--boxes", str(coco_file)]
    report = tool.main([*command, "--box-sources", "ground_truth,detector,grid,whole"])
    rows = {r["boxes"]: r for r in report["results"]}
    assert [r["method"] for r in report["results"]][:2] == [
        "hard_attention_crop [ground_truth]",
        "hard_attention_crop [detector]",
    ]
    vectors = {source: r["storage"]["vectors_per_image"] for source, r in rows.items()}
    assert vectors["whole"] == 1.0
    assert vectors["ground_truth"] == vectors["detector"] == 3.0
    assert vectors["grid"] > 3.0
    assert rows["ground_truth"]["localisation"]["boxes"] == 3
    assert rows["grid"]["by_regions"] is None
    assert [p["vectors_per_image"] for p in rows["detector"]["by_regions"]] == [1.0, 2.0, 3.0]
    assert rows["detector"]["by_object_size"]["38-75 %"]["queries"] == 2
    assert "By the most regions per photo" in capsys.readouterr().out
    alone = ["hard_attention_crop", *SMALL, "--set", str(set_file), "--box-sources", "detector,whole"]
    only = tool.main(alone)["results"][0]
    assert only["error"].startswith("ValueError: box source detector: expected a method with a detector, or --boxes")


def test_a_report_folder(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    report = tool.main(["mac", "gem", *SMALL, "--set", str(set_file), "--report", str(out), "--failures", "1"])
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(report))
    names = {p.name for p in out.iterdir()}
    assert names >= {"results.json", "results.md", "failures_mac.html", "failures_gem.html"}
    page = (out / "failures_mac.html").read_text()
    assert page.count("<section>") == 2  # the query, and how it was made
    assert "http" not in page.replace("http-equiv", "")
    text = (out / "results.md").read_text()
    assert "objemb evaluate mac gem backbone.arch=squeezenet1_1" in text
    assert "- set: 3 images (0 distractors), 2 queries; protocol instances" in text
    assert "seed 0, objemb" in text
    no_queries = json.loads(set_file.read_text()) | {"queries": []}
    set_file.write_text(json.dumps(no_queries))
    tool.main(["mac", *SMALL, "--set", str(set_file), "--report", str(out)])
    assert "No query to show: none counts." in (out / "failures_mac.html").read_text()
    assert not (out / "precision_recall.png").exists()


def test_cost_beside_one_forward_pass(tool: ModuleType, set_file: Path) -> None:
    command = ["rmac", *SMALL, "--set", str(set_file)]
    cost = tool.main([*command, "--cost-photos", "2"])["results"][0]["cost"]
    assert (cost["photos"], cost["rounds"], cost["network"]) == (2, 3, "backbone, 64 x 32 pixels")
    assert 0 < cost["low"] <= cost["ratio"] <= cost["high"]
    assert tool.main([*command, "--cost-photos", "0"])["results"][0]["cost"] is None
    objects = ["hard_attention_crop", *OVERRIDES, "--set", str(set_file), "--level", "object"]
    assert tool.main(objects)["results"][0]["cost"]["photos"] == 3


def test_files_for_the_projector(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    command = ["hard_attention_crop", *SMALL, "--set", str(set_file), "--projector", str(tmp_path / "tb")]
    tool.main([*command, "--box-sources", "ground_truth,whole"])
    folder = tmp_path / "tb" / "hard_attention_crop__ground_truth_"
    rows = [line.split("\t") for line in (folder / "labels.tsv").read_text().splitlines()]
    assert rows[0] == ["instance", "kind", "file", "box"]
    assert rows[1] == ["red", "database", "a.png", "0 0 40 20"]  # which covers half of it
    assert rows[2] == ["red", "database", "a.png", "0 0 20 20"]
    assert rows[-1] == ["green", "query", "q.png", "0 0 10 10"]
    assert len(rows) == 1 + 9 + 2
    assert Image.open(folder / "thumbnails.png").getpixel((64 + 32, 32)) == (250, 10, 10)
    assert (tmp_path / "tb" / "projector_config.pbtxt").read_text().count("embeddings {") == 2
    tool.main([*command, "--projector-vectors", "4"])
    assert len((tmp_path / "tb" / "hard_attention_crop" / "vectors.tsv").read_text().splitlines()) == 4


def test_distractors(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    Image.new("RGB", (20, 20), "white").save(more / "x.png")
    (more / "a.png").symlink_to(tmp_path / "a.png")
    report = tool.main(["mac", *SMALL, "--set", str(set_file), "--distractors", str(more)])
    assert (report["set"]["distractors"], report["set"]["database"]) == (1, 4)
    assert report["results"][0]["problems"] == []
    with pytest.raises(ValueError, match="--distractors: expected a folder of photos"):
        tool.main(["mac", *SMALL, "--set", str(set_file), "--distractors", str(tmp_path / "none")])


def test_what_does_not_go_together(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    same = write_set(tmp_path / "other")
    for more, message in (
        ([], "--set or --dataset: expected what to measure on"),
        (["--dataset", "folder"], "--dataset, --root: expected both or none"),
        (["--set", "s.json", "--whiten-on", "p", "--whiten-pairs", "q"], "--whiten-on, --whiten-pairs: expected one"),
        (
            ["--set", "s.json", "--whiten-dim", "8"],
            "--whiten-dim: expected together with --whiten-on or --whiten-pairs",
        ),
        (["--set", "s.json", "--whiten-ridge", "1"], "--whiten-ridge: expected together with --whiten-pairs"),
        (["--set", str(set_file), "--box-sources", "grid", "--level", "object"], "--box-sources: expected the image"),
        (["--set", str(set_file), "--projector-vectors", "0"], "--projector-vectors: expected 1 to"),
        (["--set", str(set_file), "--set", str(same)], "sets of different names"),
        (["mac", "--set", str(set_file)], "expected different methods, found mac more than once"),
        (
            ["gem", "--set", str(set_file), "--reference", "gme"],
            r"--reference: .*'gem', or its place from 1 to 2, found",
        ),
        (["gem", "--set", str(set_file), "--reference", "3"], "place from 1 to 2, found '3'"),
        (["gem", "--set", str(set_file), "--reference", "gme"], "did you mean 'gem'"),
        (
            ["--set", str(set_file), "--reference", "mac"],
            "--reference: expected a method to compare with it, found mac",
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


def test_boxes_of_a_file_that_cannot_be_used_are_told(
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
    with pytest.raises(ValueError, match="none of its 6 can be used"):
        tool.main(command)
    with pytest.raises(ValueError, match="none of its 6 can be used"):
        tool.main([*command[:-2], "--whiten-on", str(set_file.parent), "--whiten-boxes", str(coco_file)])
    assert f"boxes: 0 of 6 boxes of {coco_file} were used" in capsys.readouterr().err


def test_an_object_outside_its_photo_is_told_with_its_file(tool: ModuleType, set_file: Path) -> None:
    data = json.loads(set_file.read_text())
    data["objects"][0]["box"] = [0, 0, 50, 20]
    set_file.write_text(json.dumps(data))
    report = tool.main(["hard_attention_crop", *SMALL, "--set", str(set_file), "--level", "object"])
    file = data["objects"][0]["file"]
    assert report["results"][0]["problems"] == [
        f"{file}: expected boxes inside 40 x 20 pixels, found (0.0, 0.0, 50.0, 20.0)"
    ]
