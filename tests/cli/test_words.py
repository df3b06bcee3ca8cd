"""The commands with models of visual words, from `objemb model build` to `objemb evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from objemb.cli.app import command_line
from tests.cli.conftest import Run, draw, parsed

CONFIG = """
describer:
  name: local
  local_features:
    name: dense
    backbone: {name: torchvision_cnn, arch: mobilenet_v3_small, weights: random, layer: features.1}
    size: 120
    scales: [1.0]
    count: 400
    smoothing: 1
    dim: 16
  regions: {name: detections}
aggregator: {name: asmk, words: 64, form: regional, query_assignments: 2, positions: true}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "words.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    """A saved model of visual words that learned from six photos."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "photos").mkdir()
    for number in range(6):
        draw(folder / "photos" / f"{number}.png", number)
    build = ["model", "build", str(config), "--fit-on", str(folder / "photos"), "-o", str(folder / "model")]
    result = CliRunner().invoke(command_line(), build)
    assert result.exit_code == 0, result.output
    return folder / "model"


@pytest.fixture
def word_index(run: Run, photos: Path, words: Path, tmp_path: Path) -> Path:
    run("index", photos, "-o", tmp_path / "words", "--model", words, "--boxes", tmp_path / "boxes.json")
    return tmp_path / "words"


def test_build_shows_what_was_learned(run: Run, words: Path, config: Path, photos: Path, tmp_path: Path) -> None:
    card = parsed(run("model", "info", words, "--json"))
    assert list(card["fitted"]) == ["local_features.projection", "aggregator.codebook"]
    assert "of 6 photos" in card["fitted"]["aggregator.codebook"]["fitted_on"]
    assert card["dim"] == 16
    error = run("model", "build", config, "-o", tmp_path / "m", code=2).stderr
    assert "expected a fitted part, found an unfitted one; add --fit-on PHOTOS" in error
    few = ("model", "build", config, "aggregator.words=65536", "--fit-on", photos, "-o", tmp_path / "m")
    error = run(*few, code=2).stderr
    assert "codebook: expected at least 65536 local features for as many words, found at most 2400" in error
    assert "pass more photos to --fit-on, or choose fewer words" in error
    assert not (tmp_path / "m").exists()


def test_a_box_is_found_where_it_is(run: Run, photos: Path, word_index: Path, tmp_path: Path) -> None:
    found = parsed(run("search", word_index, photos / "1.png", "--box", "60,20,110,70", "-k", 3, "--json"))
    assert found["scale"] == "match kernel of visual words"
    assert found["query"]["boxes"] == [[60, 20, 110, 70]]
    hit = found["hits"][0]
    assert (hit["image"], hit["box"], hit["label"]) == ("1.png", [60, 20, 110, 70], "green")
    assert hit["query_box"] == [60, 20, 110, 70]
    whole = parsed(run("search", word_index, photos / "1.png", "--json"))
    assert whole["query"]["boxes"] == [[0, 0, 120, 100]]
    assert whole["hits"][0]["image"] == "1.png"
    two = parsed(
        run(
            "search",
            word_index,
            photos / "1.png",
            "--box",
            "0,0,9,9",
            "--box",
            "60,20,110,70",
            "--exclude-self",
            "--json",
        )
    )
    assert two["query"]["boxes"] == [[0, 0, 9, 9], [60, 20, 110, 70]]
    assert "1.png" not in [hit["image"] for hit in two["hits"]]
    between = run("search", word_index, photos / "1.png", "--box", "60.1,20.1,60.2,20.2")
    assert between.stdout == "nothing found\n"
    assert "no local features in what is searched for, so that nothing can be found" in between.stderr
    labelled = parsed(run("search", word_index, photos / "1.png", "--where", "label = blue", "--json"))
    assert {hit["label"] for hit in labelled["hits"]} == {"blue"}


def test_pages_pictures_and_verification(run: Run, photos: Path, word_index: Path, tmp_path: Path) -> None:
    query = ("search", word_index, photos / "1.png", "--box", "60,20,110,70")
    shown = run(*query, "--html", tmp_path / "page.html", "--save", tmp_path / "sheet.png")
    assert "score: match kernel of visual words" in shown.stdout
    page = (tmp_path / "page.html").read_text()
    assert 'x="60.0" y="20.0" width="50.0" height="50.0"' in page
    assert "match kernel of visual words" in page
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 100
    pytest.importorskip("cv2")
    verified = parsed(run(*query, "--rerank", "spatial_verification", "--json"))
    assert verified["hits"][0]["image"] == "1.png"
    assert verified["scale"] != "match kernel of visual words"
    error = run(*query, "--rerank", "query_expansion", code=2).stderr
    assert "found 'query_expansion', which takes vectors" in error


def test_info_verify_delete_compact_and_merge(
    run: Run, photos: Path, words: Path, word_index: Path, tmp_path: Path
) -> None:
    facts = parsed(run("info", word_index, "--json"))
    assert (facts["schema"], facts["images"], facts["words"], facts["positions"]) == ("visual_words", 6, 64, True)
    assert "visual_words" in run("info", word_index).stdout
    assert parsed(run("verify", word_index, "--json"))["intact"]
    assert parsed(run("delete", word_index, "1.png", "--json"))["deleted"] == 1
    assert parsed(run("delete", word_index, "--where", "label = red", "--json"))["deleted"] == 2
    run("compact", word_index)
    assert parsed(run("info", word_index, "--json"))["images"] == 3
    (photos / "2.png").rename(photos / "new.png")
    run("index", photos, "-o", tmp_path / "other", "--model", words)
    merged = parsed(run("merge", word_index, tmp_path / "other", "--on-collision", "keep", "--json"))
    assert merged["images"] == 7
    found = parsed(run("search", word_index, photos / "1.png", "--box", "60,20,110,70", "--json"))
    assert found["hits"][0]["image"] == "1.png"
    assert "intact" in run("verify", word_index).stdout
    postings = next(word_index.glob("*.postings"))
    postings.write_bytes(postings.read_bytes()[:-1] + b"\xff")
    assert postings.name in run("verify", word_index, code=4).stdout


def test_models_of_another_kind_are_refused_with_both_named(
    run: Run, photos: Path, model: Path, words: Path, index: Path, word_index: Path, tmp_path: Path
) -> None:
    vectors_for_words = (
        "expected a model of visual words, which this index holds, found the model 'pooled_regions' with the "
        "aggregator 'keep', which gives vectors of regions"
    )
    words_for_vectors = (
        "expected a model of vectors of regions, which this index holds, found the model 'local' with the aggregator "
        "'asmk', which gives visual words"
    )
    for folder, other, message in ((word_index, model, vectors_for_words), (index, words, words_for_vectors)):
        for command in (
            ("search", folder, photos / "1.png", "--model", other),
            ("index", photos, "-o", folder, "--model", other),
        ):
            assert message in " ".join(run(*command, code=4).stderr.split())
    before = len(list(index.iterdir()))
    error = " ".join(run("merge", index, word_index, code=4).stderr.split())
    assert "expected schema 'unit_vectors', found 'visual_words'" in error
    assert len(list(index.iterdir())) == before


def test_evaluate(run: Run, photos: Path, words: Path, tmp_path: Path) -> None:
    described = {
        "images": [{"file": f"photos/{n}.png", "instance": str(n % 3)} for n in range(6)],
        "objects": [{"file": "photos/1.png", "instance": "1", "box": [60, 20, 110, 70]}],
        "queries": [{"file": "photos/4.png", "instance": "1", "box": [60, 20, 110, 70]}],
    }
    (tmp_path / "set.json").write_text(json.dumps(described))
    command = ("evaluate", words, "--set", tmp_path / "set.json", "--boxes", tmp_path / "boxes.json")
    first = run(
        *command, "--cache", tmp_path / "cache", "--projector", tmp_path / "projector", "-o", tmp_path / "r.json"
    )
    assert "nothing to write for --projector" in " ".join(first.stderr.split())
    assert not (tmp_path / "projector").exists()
    (result,) = json.loads((tmp_path / "r.json").read_text())["results"]
    assert result["scores"]["P@1"] == 1.0
    assert result["storage"]["bytes_per_image"] > 0
    run(*command, "--cache", tmp_path / "cache", "-o", tmp_path / "again.json")
    (again,) = json.loads((tmp_path / "again.json").read_text())["results"]
    assert again["scores"] == result["scores"]
    assert list((tmp_path / "cache" / "local_features").iterdir())
