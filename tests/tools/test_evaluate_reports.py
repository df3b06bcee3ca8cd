"""Reports of `objemb evaluate`: several sets and methods, parts, folders, pictures, costs."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from objemb.config import load_config
from objemb.models import build_model
from tests.evaluation.colours import write_set
from tests.tools.conftest import OVERRIDES, SMALL


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
