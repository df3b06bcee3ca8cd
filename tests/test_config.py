from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from objemb.config import (
    dump_config,
    is_override,
    load_config,
    load_training_config,
    merge,
    method_files,
    parse_overrides,
    parse_part,
    read_yaml,
    resolve,
    split_list,
    split_overrides,
)
from objemb.models.origins import networks

METHODS = (
    "class_weighted",
    "class_weighted_localization",
    "crow",
    "d2r_r_asmk",
    "deep_image_retrieval",
    "factorization",
    "factorization_keep",
    "faster_rcnn_features",
    "faster_rcnn_rerank",
    "gem",
    "gem_multiscale",
    "hard_attention_crop",
    "hard_attention_map",
    "hard_attention_pyramid",
    "hard_attention_union",
    "how_asmk",
    "how_vlad",
    "mac",
    "mean",
    "netvlad",
    "neural_codes",
    "one_pass",
    "patchify",
    "regional_aggregation",
    "regional_aggregation_first_order",
    "regional_attention",
    "rmac",
    "rmac_aml",
    "rmac_multiresolution",
    "rmac_network",
    "rmac_proposals",
    "rmac_proposals_shared",
    "scda",
    "selective_max",
    "selective_sum",
    "selective_temb",
    "sift_asmk",
    "sift_r_asmk",
    "spoc",
)


REST = {"regions": {"name": "whole_image"}, "extractor": {"name": "map"}, "pooling": {"name": "max"}}


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_all_methods_resolve_by_name() -> None:
    assert tuple(method_files()) == METHODS
    for name in METHODS:
        assert all(n.weights is None for n in networks(load_config(name))), "nothing is fetched unless asked for"


def test_the_quick_start_names_its_weights() -> None:
    describer = load_config("quickstart")["describer"]
    assert describer["backbone"]["weights"]
    assert describer["regions"]["detector"]["weights"]


def test_installed_configs_lie_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "objemb" / "configs"
    (installed / "methods").mkdir(parents=True)
    write(installed / "methods", "mac.yaml", method_files()["mac"].read_text(encoding="utf-8"))
    write(installed, "quickstart.yaml", "base: methods/mac.yaml")
    monkeypatch.setattr("objemb.config.__file__", str(tmp_path / "objemb" / "config.py"))
    assert method_files() == {"mac": installed / "methods" / "mac.yaml"}
    assert load_config("mac")["describer"]["pooling"]["name"] == "max"
    assert load_config("quickstart") == load_config("mac")
    with pytest.raises(FileNotFoundError, match="expected a YAML file or one of"):
        load_config("rmac")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_where_it_comes_from(method: str) -> None:
    text = method_files()[method].read_text(encoding="utf-8")
    assert "20" in text.splitlines()[1] + text.splitlines()[2], "the year of the paper"


def test_methods_are_the_points_of_the_product_space() -> None:
    def point(name: str) -> tuple[str, ...]:
        s = load_config(name)
        d = s["describer"]
        return (d["regions"]["name"], d["extractor"]["name"], d["pooling"]["name"], s["aggregator"]["name"])

    assert point("mac") == ("whole_image", "map", "max", "keep")
    assert point("mean") == ("whole_image", "map", "mean", "keep")
    assert point("spoc") == ("whole_image", "map", "spoc", "keep")
    assert point("gem") == ("whole_image", "map", "gem", "keep")
    assert point("rmac") == ("rmac_grid", "map", "max", "sum")
    assert point("hard_attention_crop") == ("detections", "crop", "mean", "keep")
    assert point("hard_attention_map") == ("detections", "map", "mean", "keep")
    assert point("hard_attention_pyramid") == ("detections", "pyramid", "mean", "keep")


def test_rmac_is_the_paper() -> None:
    settings = load_config("rmac")
    assert settings["describer"]["regions"] == {
        "name": "rmac_grid",
        "levels": 3,
        "overlap": 0.4,
        "raster": "cells",
    }
    assert settings["describer"]["extractor"]["sampling"] == "cells"
    assert settings["aggregator"] == {"name": "sum", "whole_image": False, "weighted": False}


def test_the_kernels_are_those_of_the_papers() -> None:
    how, d2r = load_config("how_asmk"), load_config("d2r_r_asmk")
    kernel = {"words": 65536, "binary": True, "assignments": 1, "alpha": 3.0, "tau": 0.0, "idf": False}
    for settings in (how, d2r):
        assert {key: settings["aggregator"][key] for key in kernel} == kernel
    differ = {key: (how["aggregator"][key], d2r["aggregator"][key]) for key in how["aggregator"]}
    assert {key: pair for key, pair in differ.items() if pair[0] != pair[1]} == {
        "form": ("image", "regional"),
        "query_assignments": (5, 1),
        "tau_inclusive": (True, False),
        "count_normalised": (True, False),
        "iterations": (25, 50),
    }
    assert (how["describer"]["region_features"], d2r["describer"]["region_features"]) == ("inside", "crop")
    assert load_config("how_vlad")["aggregator"]["name"] == "vlad"
    assert load_config("sift_r_asmk")["aggregator"]["form"] == "regional"


def test_a_dumped_config_reads_back(tmp_path: Path) -> None:
    settings = load_config("hard_attention_crop", ["extractor.size=96", "scales=[1.0, 0.5]"])
    assert load_config(write(tmp_path, "saved.yaml", dump_config(settings))) == settings


def test_overrides_are_yaml_and_the_prefix_may_be_left_out() -> None:
    short = parse_overrides(["backbone.arch=vgg16", "scales=[1.0, 0.5]", "aggregator.name=sum"])
    assert short == {
        "describer": {"backbone": {"arch": "vgg16"}, "scales": [1.0, 0.5]},
        "aggregator": {"name": "sum"},
    }
    assert parse_overrides(["describer.backbone.arch=vgg16"]) == parse_overrides(["backbone.arch=vgg16"])
    assert parse_overrides(["backbone.weights=null"]) == {"describer": {"backbone": {"weights": None}}}
    assert parse_overrides(["a.b=x=y"]) == {"describer": {"a": {"b": "x=y"}}}


def test_numbers_may_have_exponents() -> None:
    assert parse_overrides(["a=1e-3", "b=-2E+1", "c=1.5e2"])["describer"] == {"a": 0.001, "b": -20.0, "c": 150.0}


def test_the_later_override_wins() -> None:
    assert parse_overrides(["extractor.size=1", "extractor.size=2"])["describer"]["extractor"]["size"] == 2


@pytest.mark.parametrize("wrong", ["backbone.arch", "=3", "a..b=1", ".a=1", ""])
def test_an_override_without_key_or_value_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="expected key=value"):
        parse_overrides([wrong])


def test_a_part_with_another_name_replaces_the_part() -> None:
    below = {"pooling": {"name": "gem", "p": 3.0}, "x": 1}
    assert merge(below, {"pooling": {"name": "max"}}) == {"pooling": {"name": "max"}, "x": 1}
    assert merge(below, {"pooling": {"name": "gem"}}) == below
    assert merge(below, {"pooling": {"p": 4.0}})["pooling"] == {"name": "gem", "p": 4.0}
    assert below == {"pooling": {"name": "gem", "p": 3.0}, "x": 1}, "nothing is edited in place"


def test_changing_the_plug_in_on_the_command_line_drops_the_old_keys() -> None:
    settings = load_config("gem", ["pooling.name=max"])
    assert settings["describer"]["pooling"] == {"name": "max"}
    crop = load_config("hard_attention_map", ["extractor.name=crop", "extractor.size=64"])
    assert crop["describer"]["extractor"]["size"] == 64
    assert "sampling" not in crop["describer"]["extractor"]


def test_inheritance_over_two_steps(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write(
        tmp_path / "below",
        "a.yaml",
        "describer: {name: pooled_regions, regions: {name: whole_image}, "
        "backbone: {name: torchvision_cnn, arch: alexnet}, "
        "extractor: {name: map, size: 100}, pooling: {name: gem, p: 2.0}}",
    )
    write(tmp_path, "b.yaml", "base: below/a.yaml\ndescriber: {extractor: {size: 200}}\n")
    settings = load_config(write(tmp_path, "c.yaml", "base: b.yaml\naggregator: {name: sum}\n"))
    assert settings["describer"]["extractor"]["size"] == 200
    assert settings["describer"]["pooling"]["p"] == 2.0
    assert settings["aggregator"]["name"] == "sum"


def test_a_missing_base_and_a_circle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="base"):
        load_config(write(tmp_path, "a.yaml", "base: nowhere.yaml\n"))
    write(tmp_path, "x.yaml", "base: y.yaml\n")
    with pytest.raises(ValueError, match=r"expected no cycle.*x.yaml -> y.yaml -> x.yaml"):
        load_config(write(tmp_path, "y.yaml", "base: x.yaml\n").with_name("x.yaml"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.archh=vgg16", "did you mean 'arch'"),
        ("poolin.name=max", "did you mean 'pooling'"),
        ("size=320", r"did you mean 'extractor.size'"),
        ("pooling.name=gemm", "did you mean 'gem'"),
        ("regions.detector.arch=x", "expected a part with a name"),
        ("pooling=max", "expected a part with a name"),
        ("aggregator.nam=sum", "did you mean 'name'|unknown key 'nam'"),
        ("describer.name=pooled_region", "did you mean 'pooled_regions'"),
    ],
)
def test_unknown_keys_suggest_the_nearest_known_one(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config("hard_attention_crop", [override])


def test_re_ranking_is_a_list_of_parts() -> None:
    assert load_config("mac")["rerank"] == []
    steps = load_config("mac", ["rerank=[{name: query_expansion, top: 7}, {name: region_match}]"])["rerank"]
    assert steps[0] == {"name": "query_expansion", "top": 7, "alpha": 0.0, "normalise": True}
    assert steps[1]["name"] == "region_match"
    for wrong in ("rerank.name=query_expansion", "rerank.0.top=3", "rerank=query_expansion"):
        with pytest.raises(ValueError, match="rerank: expected a list of parts"):
            load_config("mac", [wrong])
    with pytest.raises(ValueError, match=r"rerank\[0\]: unknown key 'tops' \(did you mean 'top'"):
        load_config("mac", ["rerank=[{name: query_expansion, tops: 7}]"])


def test_a_name_and_its_overrides_are_told_apart_by_the_keys() -> None:
    assert split_overrides("mac") == ("mac", ())
    assert split_overrides("a,b/mac,scales=[1.0, 0.5],x.y=1") == ("a,b/mac", ("scales=[1.0, 0.5]", "x.y=1"))
    assert split_overrides("") == ("", ())
    assert split_overrides("mac,rerank=[{name: x, top: 5},y=1],z=2") == (
        "mac",
        ("rerank=[{name: x, top: 5},y=1]", "z=2"),
    )
    assert split_overrides("mac],x=1") == ("mac]", ("x=1",))
    assert split_overrides("mac[,x=1") == ("mac[,x=1", ()), "a bracket without end"
    assert split_list("mac,scales=[1.0, 0.5],x=1,rmac") == ["mac,scales=[1.0, 0.5],x=1", "rmac"]
    assert split_list("mac,x=1,rmac,y.z={a: 1, b: 2}") == ["mac,x=1", "rmac,y.z={a: 1, b: 2}"]
    assert split_list("mac") == ["mac"]
    assert [is_override(text) for text in ("a.b=1", "a=", "mac", "=1", "./a=1", "mac,a=1")] == [
        True,
        True,
        *[False] * 4,
    ]


def test_a_part_of_a_command_line() -> None:
    found = parse_part("rerank", "query_expansion,top=5,alpha=3.0")
    assert found == {"name": "query_expansion", "top": 5, "alpha": 3.0, "normalise": True}
    assert parse_part("pooling", "max") == {"name": "max"}
    with pytest.raises(ValueError, match="did you mean 'query_expansion'"):
        parse_part("rerank", "query_expanson")
    with pytest.raises(ValueError, match="did you mean 'alpha'"):
        parse_part("rerank", "query_expansion,alpa=3")


def test_unknown_top_level_keys_are_errors() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'agregator' \(did you mean 'aggregator'"):
        resolve({"agregator": {"name": "sum"}})
    with pytest.raises(ValueError, match="expected the key 'describer', found nothing"):
        resolve({})


def test_a_key_without_default_must_be_given() -> None:
    with pytest.raises(ValueError, match=r"describer.backbone: expected the key 'arch'"):
        resolve({"describer": {"name": "pooled_regions", "backbone": {"name": "torchvision_cnn"}, **REST}})


@pytest.mark.parametrize(
    "text",
    [
        "describer: {a: 1, a: 2}",
        "describer: {name: x}\ndescriber: {name: y}\n",
        "a: [unclosed",
        "!!python/object/apply:os.system ['true']",
        "{[1]: 2}",
        "\t",
    ],
)
def test_bad_yaml_is_a_value_error_with_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        load_config(write(tmp_path, "bad.yaml", text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a photo #3.jpg", "a photo #3.jpg"),
        ("C:\\new: folder", "C:\\new: folder"),
        ("*star", "*star"),
        ("2024-01-01", "2024-01-01"),
        ("1:30:00", "1:30:00"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("no", "no"),
        ("on", "on"),
        ("'12'", "12"),
        ("[a, 'b c', 2]", ["a", "b c", 2]),
        ("{name: gem, p: 2.0}", {"name": "gem", "p": 2.0}),
        ("true", True),
        ("null", None),
        ("~", None),
        (" 12 ", 12),
        ("-0.5", -0.5),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("0x1F", 31),
        (".inf", float("inf")),
    ],
)
def test_values_of_overrides(text: str, value: Any) -> None:
    found = parse_overrides([f"key={text}"])["describer"]["key"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_override_is_refused(text: str) -> None:
    for read in (lambda o: parse_overrides([o]), lambda o: parse_part("rerank", f"query_expansion,{o}")):
        with pytest.raises(ValueError, match=r"'top=\s*': expected a value, found none \(is a shell variable"):
            read(f"top={text}")


def test_invalid_overrides_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at most 50 nested keys, found 901"):
        parse_overrides([".".join("a" * 900) + "=1"])
    with pytest.raises(ValueError, match=r"override 'a=99.*expected a value, found"):
        parse_overrides(["a=" + "9" * 9999])
    with pytest.raises(ValueError, match=r"override 'a=\[1': expected YAML"):
        parse_overrides(["a=[1"])


@pytest.mark.parametrize("wrong", ["true", "2024", "1e5"])
def test_a_number_in_place_of_a_text_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"describer.backbone.weights: expected a text, found .*; put it in quotes"):
        load_config("mac", [f"backbone.weights={wrong}"])
    assert load_config("mac", [f"backbone.weights='{wrong}'"])["describer"]["backbone"]["weights"] == wrong


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_configs_of_other_editors(tmp_path: Path, encoding: str) -> None:
    text = 'base: mac.yaml\ndescriber: {backbone: {weights: "Zürich.pth"}}\n'
    (tmp_path / "mac.yaml").write_text(method_files()["mac"].read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "own.yaml").write_bytes(text.encode(encoding))
    assert load_config(tmp_path / "own.yaml")["describer"]["backbone"]["weights"] == "Zürich.pth"
    (tmp_path / "latin.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.yaml: expected UTF-8, found .*0xfc.*; save the file as UTF-8"):
        load_config(tmp_path / "latin.yaml")


BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))])
MERGED = "\n".join(["a0: &a0 {k0: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 60))])


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        MERGED,
        "describer: &a [*a]",
        "describer: &a {x: *a}",
        "describer: " + "[" * 60 + "]" * 60,
        "describer: " + "[" * 3000,
        "describer: " + "{a: " * 3000,
        "describer: !!timestamp 2024-01-01",
        "describer: !!binary aGFsbG8=",
        "describer: !!set {a}",
        "x" * (1 << 23),
    ],
)
def test_configs_of_strangers_neither_hang_nor_unfold(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        load_config(write(tmp_path, "bad.yaml", text))


def test_anchors_and_many_keys_are_read(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: [1, 2]}\nb: *a\nc: {<<: *a, x: 2}\n" + "".join(f"k{n}: {n}\n" for n in range(2_000))
    found = read_yaml(write(tmp_path, "many.yaml", text))
    assert (found["b"], found["c"], found["k1999"]) == ({"x": 1, "y": [1, 2]}, {"x": 2, "y": [1, 2]}, 1_999)


@pytest.mark.parametrize(
    "text", ["no", "1e5", "007", "2024-01-01", "~", "", "0x1F", "1:30", "a #b", "- x", "Zürich", "=", "<<"]
)
def test_any_text_survives_a_dump(tmp_path: Path, text: str) -> None:
    assert read_yaml(write(tmp_path, "dumped.yaml", dump_config({"a": text, "b": [text]}))) == {"a": text, "b": [text]}


def test_a_key_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected each key once, found 'p' twice"):
        load_config(write(tmp_path, "bad.yaml", "describer:\n  p: 1\n  p: 2\n"))


@pytest.mark.parametrize("text", ["", "3", "[1, 2]", "text"])
def test_a_config_is_a_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="expected a mapping"):
        load_config(write(tmp_path, "bad.yaml", text))


def test_a_missing_file_lists_the_methods() -> None:
    with pytest.raises(FileNotFoundError, match="did you mean 'rmac'"):
        load_config("configs/methods/rmacc.yaml")


TRAINING = """
task:
  name: classify
  describer:
    name: pooled_regions
    regions: {name: whole_image}
    backbone: {name: narrow_resnet}
    extractor: {name: crop}
    pooling: {name: mean}
  data: {name: scenes, count: 5}
run: {steps: 3}
"""


def test_training_configs_follow_the_same_rules(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", TRAINING)
    file = write(tmp_path, "mine.yaml", "base: base.yaml\ntask: {crops: 7}\nrun: {lr: 1e-3}\n")
    config = load_training_config(file, ["data.count=9", "task.scale=8", "run.batch=2"])
    assert config["run"] == {"steps": 3, "lr": 0.001, "batch": 2}
    task = config["task"]
    assert (task["crops"], task["scale"], task["data"]["count"], task["validation"]) == (7, 8, 9, None)
    assert task["describer"]["backbone"]["width"] == 24
    assert read_yaml(write(tmp_path, "dumped.yaml", dump_config(config))) == config
    assert load_training_config(tmp_path / "dumped.yaml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tusk: {}", r"unknown key 'tusk' \(did you mean 'task'\?\); known keys: 'task', 'run'"),
        ("run: {steps: 3}", "expected the key 'task', found 'run'"),
        ("task: {name: clasify}", r"name: expected one of .*did you mean 'classify'"),
        (TRAINING.replace("{steps: 3}", "5"), "run: expected a mapping such as 'steps: 400', found 5"),
        (TRAINING.replace("count", "number"), "task.data: unknown key 'number'"),
    ],
)
def test_mistakes_in_training_configs_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_training_config(write(tmp_path, "bad.yaml", text))


def test_lists_of_parts_are_resolved(tmp_path: Path) -> None:
    scenes = "data: {name: mixture, data: [{name: scenes, count: 5}, {name: scenes, split: val}]}"
    file = write(tmp_path, "mix.yaml", TRAINING.replace("data: {name: scenes, count: 5}", scenes))
    first, second = load_training_config(file)["task"]["data"]["data"]
    assert (first["count"], second["split"], second["settings"]["size"]) == (5, "val", 256)
    with pytest.raises(ValueError, match=r"task.data.data\[1\]: unknown key 'splits'"):
        load_training_config(write(tmp_path, "bad.yaml", file.read_text().replace("split: val", "splits: val")))


def test_settings_within_a_task_are_overridden_one_by_one() -> None:
    task = load_training_config("distill_scenes", ["guidance.max_boxes=3", "data.settings.size=64"])["task"]
    sources = {"sources": ["ground_truth", "jittered"], "variants": 2, "max_boxes": 3}
    assert sources.items() <= task["guidance"].items()
    assert task["guidance"]["weighting"] == "uniform"
    assert (task["data"]["settings"]["size"], task["data"]["settings"]["objects_per_scene"]) == (64, [1, 5])
    assert load_training_config("classify_scenes", ["whiten.power=0.25"])["task"]["whiten"] == {
        "dim": 128,
        "power": 0.25,
        "boxes": 2000,
    }
    with pytest.raises(ValueError, match=r"distill_scenes: task.guidance: unknown key 'max_box' \(did you mean 'max"):
        load_training_config("distill_scenes", ["guidance.max_box=3"])
    with pytest.raises(ValueError, match=r"task.data: unknown key 'size' \(did you mean 'settings.size'\?\)"):
        load_training_config("distill_scenes", ["data.size=3"])
    with pytest.raises(ValueError, match=r"task: unknown key 'max_boxes' \(did you mean 'guidance.max_boxes'\?\)"):
        load_training_config("distill_scenes", ["max_boxes=3"])
    with pytest.raises(ValueError, match=r"task.guidance: expected settings, some of 'sources', .*found 'jittered'"):
        load_training_config("distill_scenes", ["guidance=jittered"])


def test_an_override_of_an_entry_of_a_list() -> None:
    overrides = ["regions.of[0].min_score=0.25", "regions.of[1].levels=2", "regions.of[0].detector.weights=random"]
    of = load_config("hard_attention_union", overrides)["describer"]["regions"]["of"]
    assert [part["name"] for part in of] == ["detections", "patchify"]
    assert (of[0]["min_score"], of[0]["nms_iou"], of[1]["levels"]) == (0.25, 0.5, 2)
    assert of[0]["detector"]["weights"] == "random"
    assert split_overrides("hard_attention_union,regions.of[1].levels=2,regions.max_regions=9") == (
        "hard_attention_union",
        ("regions.of[1].levels=2", "regions.max_regions=9"),
    )


def test_an_override_of_an_entry_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"of\[2\]: expected one of the 2 entries of of, counted from 0"):
        load_config("hard_attention_union", ["regions.of[2].levels=2"])
