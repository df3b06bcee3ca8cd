from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from objemb.index.store import Index
from objemb.search.opening import open_retrieval
from objemb.serve.current import Current
from objemb.serve.service import Options
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


def test_an_index_of_another_model_is_refused_and_the_old_one_served(index: Path, tmp_path: Path) -> None:
    looks: list[bool] = []
    current = Current(open_retrieval(index), looks.append)
    before = current.retrieval
    other = Index.create(tmp_path / "other", schema=before.index.schema, fingerprint="another model")
    shutil.move(index, tmp_path / "kept")
    shutil.move(other.path, index)
    current.follow()
    assert current.retrieval is before
    assert current.refused == "another model"
    shutil.rmtree(index)
    current.follow()
    assert (current.retrieval, current.refused) == (before, "it cannot be opened")
    shutil.move(tmp_path / "kept", index)
    Index.open(index).delete(["0.png"])
    current.follow()
    assert (len(current.retrieval.index), current.refused) == (COUNT - 1, None)
    assert looks == [False, False, True]


def test_searches_go_on_with_the_state_they_began_with(index: Path) -> None:
    current = Current(open_retrieval(index))
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


def test_a_model_that_did_not_make_the_index_is_an_error_at_the_start(index: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from objemb.cli.app import app

    Index.create(tmp_path / "other", schema=Index.open(index).schema, fingerprint="another model")
    model = str(open_retrieval(index).model.path)
    done = CliRunner().invoke(app, ["serve", str(tmp_path / "other"), "--model", model, "--port", "0"])
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

    from objemb.cli.app import app

    monkeypatch.delenv("OBJEMB_TOKEN", raising=False)
    done = CliRunner().invoke(app, ["serve", str(index), *options])
    assert done.exit_code == 2
    assert said in done.stderr
