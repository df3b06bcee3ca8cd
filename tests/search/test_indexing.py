from __future__ import annotations

from pathlib import Path

import pytest

from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.models import load_model
from objemb.search import indexing
from objemb.search.indexing import Job, indexed_photo, photo_path


def test_what_cannot_be_looked_for_has_not_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    assert indexing._vanished(Path("nowhere"))
    assert not indexing._vanished(None)
    monkeypatch.setattr(Path, "exists", _refused)
    assert not indexing._vanished(Path("there"))


def _refused(path: Path) -> bool:
    raise PermissionError(13, "Permission denied", str(path))


def test_long_runs_publish_in_between(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("objemb.search.indexing.COMMIT_SECONDS", 0.0)
    loaded = load_model(model)
    index = Index.create(tmp_path / "index", schema=UnitVectors(loaded.dim), fingerprint=loaded.fingerprint)
    seen = []
    Job(
        index=index,
        model=loaded,
        sources=[photos],
        batch_size=1,
        on_step=lambda count: seen.append(len(Index.open(tmp_path / "index"))),
    ).run()
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("stamp", [None, "", "10 s", "[]", "{}", '{"path": 3}', "null", "\udcff"])
def test_foreign_stamps_name_no_photo(stamp: str | None) -> None:
    assert photo_path(stamp) is None
    assert indexed_photo(stamp) is None


def test_a_stamp_names_its_photo_until_that_changes(photos: Path, model: Path, tmp_path: Path) -> None:
    loaded = load_model(model)
    index = Index.create(tmp_path / "index", schema=UnitVectors(loaded.dim), fingerprint=loaded.fingerprint)
    report = Job(index=index, model=loaded, sources=[photos]).run()
    assert (report.added, report.unchanged) == (6, 0)
    stamp = index.stamp("1.png")
    assert photo_path(stamp) == indexed_photo(stamp) == photos / "1.png"
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes() + b" ")
    assert photo_path(stamp) == photos / "1.png"
    assert indexed_photo(stamp) is None
    assert indexing.ids_of(index.stamps(), photos / "1.png") == ["1.png"]
    again = Job(index=index, model=loaded, sources=[photos]).run()
    assert (again.added, again.updated, again.unchanged) == (0, 1, 5)
    assert indexed_photo(index.stamp("1.png")) == photos / "1.png"
