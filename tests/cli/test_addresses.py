"""The commands do the same at an address as in a folder."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

import objemb
from tests.cli.conftest import Run, parsed
from tests.index.stores.servers import postgres
from tests.search.test_blocks import Here


@pytest.fixture(
    params=[
        pytest.param("lance", marks=pytest.mark.lance),
        pytest.param("postgresql", marks=pytest.mark.postgres),
        pytest.param("qdrant", marks=pytest.mark.qdrant),
    ]
)
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "qdrant":
        held = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
        monkeypatch.setattr(held, "close", lambda: None)
        monkeypatch.setattr("objemb.index.stores.qdrant.connect", lambda address: held)
        return "qdrant://localhost/shop"
    if request.param == "lance":
        pytest.importorskip("lancedb")
        return f"lance:{tmp_path}/shop"
    server = postgres()
    if server is None:
        pytest.skip("needs the packages pgserver and psycopg")
    return server.address(f"t{uuid.uuid4().hex[:12]}")


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Local mode performs exact")
def test_commands(
    run: Run, photos: Path, model: Path, newer: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    boxes, folder = ("--boxes", tmp_path / "boxes.json", "--json"), tmp_path / "index"
    for where in (folder, address):
        report = parsed(run("index", photos, "-o", where, "--model", model, *boxes))
        assert (report["index"], report["added"], report["images"], report["regions"]) == (str(where), 6, 6, 12)
    assert parsed(run("index", photos, "-o", address, "--model", model, *boxes))["unchanged"] == 6

    query = ("--box", "5,5,45,35", "--json", "-k", 4)
    found = [parsed(run("search", where, photos / "0.png", *query)) for where in (folder, address)]
    assert found[0] == found[1]
    filtered = ("--where", "label = red", "--exclude-self")
    found = [parsed(run("search", where, photos / "0.png", *query, *filtered)) for where in (folder, address)]
    assert found[0] == found[1]
    assert [hit["image"] for hit in found[1]["hits"]] == ["3.png"]
    reranked = [
        parsed(run("search", where, photos / "0.png", *query, "--rerank", "query_expansion,top=2"))
        for where in (folder, address)
    ]
    assert reranked[0] == reranked[1]

    facts = parsed(run("info", address, "--json"))
    assert (facts["images"], facts["regions"], facts["approximate"]) == (6, 12, None)
    assert parsed(run("verify", address, "--json"))["intact"]
    assert "6" in run("info", address).output
    gone = parsed(run("delete", address, "0.png", "none.png", "--json"))
    assert (gone["deleted"], gone["unknown"], gone["images"]) == (1, ["none.png"], 5)
    assert parsed(run("delete", address, "--where", "label = green", "--json"))["deleted"] == 2

    opened = objemb.open(address)
    assert [hit.image for hit in opened.search(photos / "3.png", k=1)] == ["3.png"]
    other = run("index", photos, "-o", address, "--model", newer, code=4)
    assert "expected the model with fingerprint" in other.stderr
    assert parsed(run("compact", address, "--json"))["after"]["images"] == 3
    merged = parsed(run("merge", address, folder, "--on-collision", "keep", "--json"))
    assert (merged["images"], merged["regions"]) == (6, 12)
    parsed(run("merge", folder, address, "--on-collision", "replace", "--json"))
    assert objemb.open(folder).index.stamps() == objemb.open(address).index.stamps()

    report = parsed(run("migrate", address, "--model", newer, "--json"))
    assert (report["described"], report["given"], report["left_out"], report["images"]) == (6, 6, 0, 6)
    assert "generation 0" in report["previous"]
    hits = parsed(run("search", address, photos / "0.png", *query))["hits"]
    assert {hit["image"]: hit["score"] for hit in hits[:2]} == pytest.approx({"0.png": 1.0, "3.png": 1.0}, abs=1e-5)
    facts = parsed(run("info", address, "--json"))
    assert (facts["next"], facts["previous"]["images"]) == (None, 6)
    assert parsed(run("index", photos, "-o", address, "--model", newer, *boxes))["unchanged"] == 6
    copied = parsed(run("copy", address, tmp_path / "copy", "--json"))
    assert (copied["copied"], copied["compared"]) == (6, 6)
    assert "the old generation was deleted" in run("migrate", address, "--drop-old").output
    assert "is not there" in run("migrate", address, "--cancel").output


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Local mode performs exact")
def test_photos_that_others_describe(
    run: Run, photos: Path, model: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("objemb.search.executors.base.executor_of", lambda where: Here())
    command = ("index", photos, "-o", address, "--model", model, "--boxes", tmp_path / "boxes.json", "--json")
    report = parsed(run(*command, "--on", "processes=2", "--block-size", 4))
    assert (report["added"], report["images"], report["regions"]) == (6, 6, 12)
    assert parsed(run(*command))["unchanged"] == 6
    assert not list(tmp_path.glob("*.blocks"))


def test_nothing_is_there(run: Run, address: str) -> None:
    assert "expected an index, found none" in run("info", address, code=2).stderr
