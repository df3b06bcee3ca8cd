from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from objemb.index.opening import create_index
from objemb.index.store import Index
from objemb.models.opening import open_model
from objemb.search.copying import Copy
from objemb.search.migration import Migration
from objemb.search.opening import open_retrieval
from objemb.search.retrieval import Retrieval
from objemb.serve.current import Current, Opening
from objemb.serve.service import DescribedQuery, Options, Service
from tests.runtimes.models import write_model
from tests.serve.conftest import COUNT, encoded, picture, serving


def test_a_publication_of_another_process_is_served_within_two_seconds(index: Path) -> None:
    with serving(index, Options(decoders=1)) as running:
        other = Index.open(index)
        rows = other.get("0.png")
        assert rows is not None
        with other.writer() as writer:
            writer.add(replace(rows, image="new.png"))
            writer.delete(["2.png"])
        begun = time.monotonic()
        while running.client.get("/v1/images/new.png").status_code == 404 and time.monotonic() - begun < 10:
            assert running.search(encoded(picture(0))).status_code == 200
        assert running.service.current.retrieval.index.state.generation == 2
        hits = running.search(encoded(picture(0))).json()["hits"]
        assert {"new.png", "0.png"} <= {hit["image"] for hit in hits}
        assert "2.png" not in {hit["image"] for hit in hits}
        assert 'objemb_index_reloads_total{outcome="served"} 1.0' in running.client.get("/metrics").text


@pytest.mark.lance
def test_an_index_at_an_address_is_served_as_a_folder(index: Path, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    folder = Index.open(index)
    made = create_index(
        f"lance:{tmp_path}/shop", schema=folder.schema, fingerprint=folder.fingerprint, model=folder.model
    )
    Copy(folder, made).run()
    photo = encoded(picture(0))
    with serving(index, Options(decoders=1)) as running:
        answer = running.search(photo).content
        facts = running.client.get("/v1/info").json()["index"]
    with serving(made.address, Options(decoders=1)) as running:
        assert running.search(photo).content == answer
        here = running.client.get("/v1/info").json()["index"]
        assert (here["images"], here["regions"], here["updated"]) == (facts["images"], facts["regions"], None)
        assert here["columns"] == facts["columns"]
        assert running.client.get("/v1/images?start=2&limit=2").json()["total"] == COUNT
        made.delete(["2.png"])
        begun = time.monotonic()
        while running.client.get("/v1/info").json()["index"]["images"] == COUNT and time.monotonic() - begun < 20:
            time.sleep(0.1)
        assert running.client.get("/v1/info").json()["index"]["images"] == COUNT - 1
        assert running.client.get("/v1/images/2.png").status_code == 404


def test_an_index_whose_model_is_not_there_is_refused_and_the_old_one_served(index: Path, tmp_path: Path) -> None:
    looks: list[bool] = []
    opening = Opening(index)
    current = Current(opening.first(), opening.again, looks.append)
    before = current.retrieval
    other = Index.create(tmp_path / "other", schema=before.index.schema, fingerprint="another model")
    shutil.move(index, tmp_path / "kept")
    shutil.move(other.path, index)
    current.follow()
    assert current.retrieval is before
    assert current.refused == "its model cannot be opened"
    shutil.rmtree(index)
    current.follow()
    assert (current.retrieval, current.refused) == (before, "it cannot be opened")
    shutil.move(tmp_path / "kept", index)
    Index.open(index).delete(["0.png"])
    current.follow()
    assert (len(current.retrieval.index), current.refused) == (COUNT - 1, None)
    assert looks == [False, False, True]


def test_searches_go_on_with_the_state_they_began_with(index: Path) -> None:
    opening = Opening(index)
    current = Current(opening.first(), opening.again)
    begun = current.retrieval
    other = Index.open(index)
    other.delete(["0.png"])
    other.compact()
    current.follow()
    assert current.retrieval is not begun
    query = begun.index.get("0.png")
    assert query is not None
    assert begun.index.search(query, 1)[0].image == "0.png"
    assert "0.png" not in current.retrieval.index


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A model without a detector."""
    return write_model(tmp_path / "newer", detector=False, per_region=False, fingerprint="e" * 64)


def migrate(index: Path, model: Path) -> None:
    Migration(index=Index.open(index), model=open_model(model)).run()


def test_a_migration_is_followed_by_model_and_index_together(index: Path, newer: Path) -> None:
    photo = encoded(picture(0))
    with serving(index, Options(writable=True, decoders=1)) as running:
        before = running.search(photo).content
        migrate(index, newer)
        answers, begun = [], time.monotonic()
        while running.service.current.retrieval.model.has_detector and time.monotonic() - begun < 20:
            answers.append(running.search(photo))
        assert {answer.status_code for answer in answers} <= {200}
        after = running.search(photo)
        hits = [hit["image"] for hit in after.json()["hits"]]
        assert hits == [hit.image for hit in open_retrieval(index).search(photo)]
        assert {answer.content for answer in answers} <= {before, after.content}
        assert running.client.get("/v1/info").json()["model"]["fingerprint"] == "e" * 64
        assert running.client.post("/v1/detect", files={"photo": ("1.png", photo)}).status_code == 409
        written = running.client.put("/v1/images/new.png", files={"photo": ("1.png", photo)})
        assert (written.status_code, len(written.json()["regions"])) == (201, 1)
        assert running.client.get("/readyz").json() == {"status": "ok", "index": "newest"}
    assert Index.open(index).verify() == []


def test_what_has_begun_before_a_migration_ends_with_its_model(index: Path, newer: Path) -> None:
    service = Service(Opening(index), Options(decoders=1))
    try:
        service.current.close()  # followed by hand
        begun = service.current.retrieval

        def queries(state: Retrieval) -> list[DescribedQuery]:
            return [DescribedQuery(state, state.model.query(picture(n)), (), (("k", 3),)) for n in range(2)]

        before = service._search(queries(begun))
        migrate(index, newer)
        service.current.follow()
        now = service.current.retrieval
        together = [query for of_each in zip(queries(begun), queries(now), strict=True) for query in of_each]
        old_0, new_0, old_1, new_1 = service._search(together)
        assert [old_0, old_1] == before
        assert [new_0, new_1] == [service._search([query])[0] for query in queries(now)]
        assert old_0 != new_0
    finally:
        service.close()


def test_a_migration_whose_model_is_gone_is_said(index: Path, newer: Path) -> None:
    photo = encoded(picture(0))
    with serving(index, Options(writable=True, decoders=1)) as running:
        service = running.service
        service.current.close()  # followed by hand
        before = running.search(photo).content
        migrate(index, newer)
        newer.rename(newer.with_name("gone"))
        service.current.follow()
        assert running.search(photo).content == before
        said = running.client.get("/readyz")
        assert (said.status_code, said.json()["index"]) == (
            200,
            "older, as of the newest one its model cannot be opened",
        )
        assert running.client.get("/v1/info").json()["index"]["refused"] == "its model cannot be opened"
        metrics = running.client.get("/metrics").text
        assert "objemb_index_stale 1.0" in metrics
        assert 'objemb_index_reloads_total{outcome="refused"} 1.0' in metrics
        written = running.client.put("/v1/images/new.png", files={"photo": ("1.png", photo)})
        assert (written.status_code, written.headers["retry-after"]) == (503, "5")
        newer.with_name("gone").rename(newer)
        service.current.follow()
        assert "objemb_index_stale 0.0" in running.client.get("/metrics").text
        assert running.client.put("/v1/images/new.png", files={"photo": ("1.png", photo)}).status_code == 201


def test_a_model_that_was_named_is_tried_before_that_of_the_index(index: Path, newer: Path, tmp_path: Path) -> None:
    named = Path(shutil.copytree(open_retrieval(index).model.path or "", tmp_path / "named"))
    opening = Opening(index, named)
    assert opening.first().model.path == opening.again().model.path == named
    migrate(index, newer)
    assert opening.again().model.path == newer
    shutil.rmtree(named)
    shutil.copytree(newer, named)
    newer.rename(newer.with_name("gone"))
    assert opening.again().model.path == named


def test_a_model_that_did_not_make_the_index_is_an_error_at_the_start(index: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from objemb.cli.app import command_line

    Index.create(tmp_path / "other", schema=Index.open(index).schema, fingerprint="another model")
    model = str(open_retrieval(index).model.path)
    done = CliRunner().invoke(command_line(), ["serve", str(tmp_path / "other"), "--model", model, "--port", "0"])
    assert done.exit_code == 4
    assert "another model" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--host: expected a token"),
        (["--photos", "/nowhere/at/all"], "--photos: expected a folder, found none"),
        (["--rerank", "nothing"], "rerank"),
        (["--token", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_options_are_checked_before_a_model_is_loaded(
    index: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    from typer.testing import CliRunner

    from objemb.cli.app import command_line

    monkeypatch.delenv("OBJEMB_TOKEN", raising=False)
    done = CliRunner().invoke(command_line(), ["serve", str(index), *options])
    assert done.exit_code == 2
    assert said in done.stderr
