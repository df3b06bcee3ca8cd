"""Thumbnails: only of indexed photos, wherever a request points."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from objemb.checks import ObjembError
from objemb.index.store import Index
from objemb.search.opening import open_retrieval
from objemb.serve.current import Opening
from objemb.serve.photos import IndexedPhotos
from objemb.serve.problems import Problem
from objemb.serve.service import Options, Service
from tests.serve.conftest import Served, serving


def test_thumbnails_are_small_and_kept(served: Served) -> None:
    answer = served.client.get("/v1/photos/shelf%2F1.png", params={"side": 90})
    image = Image.open(io.BytesIO(answer.content))
    assert (answer.headers["content-type"], image.format, image.size) == ("image/jpeg", "JPEG", (96, 80))
    tag = answer.headers["etag"]
    again = served.client.get("/v1/photos/shelf%2F1.png", params={"side": 96}, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    whole = served.client.get("/v1/photos/shelf%2F1.png", params={"side": 2000})
    assert Image.open(io.BytesIO(whole.content)).size == (120, 100), "never enlarged"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/photos/nothing.png",
        "/v1/photos/..%2F..%2Fetc%2Fpasswd",
        "/v1/photos/%2Fetc%2Fpasswd",
        "/v1/photos/shelf%2F..%2F0.png",
        "/v1/photos/0.png%00",
        "/v1/photos/%ff%fe",
        "/v1/photos/file:%2F%2F%2Fetc%2Fpasswd",
        "/v1/photos/http:%2F%2F127.0.0.1",
        "/v1/photos/",
    ],
)
def test_no_path_of_a_request_is_opened(served: Served, path: str) -> None:
    answer = served.client.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text


def test_sides_out_of_range(served: Served) -> None:
    for side in (0, -1, 5000, "x"):
        assert served.client.get("/v1/photos/0.png", params={"side": side}).status_code == 422


def test_a_photo_that_was_changed_is_not_shown(index: Path, photos: Path, tmp_path: Path) -> None:
    stamp = json.loads(Index.open(index).stamp("0.png") or "")
    retrieval = open_retrieval(index)
    assert IndexedPhotos(None).path_of(retrieval.index, "0.png") == Path(stamp["path"])
    status = os.stat(stamp["path"])
    os.utime(stamp["path"], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    try:
        assert IndexedPhotos(None).path_of(retrieval.index, "0.png") is None
        with pytest.raises(Problem, match="found that it is gone or has changed"):
            IndexedPhotos(None).content_of(retrieval.index, "0.png", 10**6)
    finally:
        os.utime(stamp["path"], ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_folder_of_photos_holds_all_that_are_opened(index: Path, photos: Path, tmp_path: Path) -> None:
    retrieval = open_retrieval(index)
    assert IndexedPhotos(photos).path_of(retrieval.index, "shelf/1.png") == (photos / "shelf/1.png").resolve()
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)  # by their ids, at another place and with other times
    located = IndexedPhotos(moved)
    assert located.path_of(retrieval.index, "shelf/1.png") == (moved / "shelf/1.png").resolve()
    (moved / "0.png").write_bytes(b"another file")
    assert located.path_of(retrieval.index, "0.png") is None, "another size than that of the photo that was indexed"
    outside = tmp_path / "outside.png"
    shutil.copy(photos / "2.png", outside)
    (moved / "2.png").unlink()
    (moved / "2.png").symlink_to(outside)
    assert located.path_of(retrieval.index, "2.png") is None, "it leads out of the folder"
    (moved / "4.png").unlink()
    assert located.path_of(retrieval.index, "4.png") is None
    with pytest.raises(Problem, match="not in the index"):
        located.path_of(retrieval.index, "list.csv")
    service = Service(Opening(index), Options(photos=moved, decoders=1))
    try:  # re-rankers open the same
        searching = service.current.retrieval
        assert searching.photo_of("shelf/1.png") == (moved / "shelf/1.png").resolve()
        with pytest.raises(ObjembError, match=r"2\.png: expected the indexed photo, found that it was"):
            searching._open_photo("2.png")
    finally:
        service.close()


def test_ids_that_are_paths_lead_nowhere_else(index: Path, photos: Path, tmp_path: Path, model: Path) -> None:
    index_ = Index.open(index)
    rows = index_.get("0.png")
    assert rows is not None
    secret = tmp_path / "secret.png"
    shutil.copy(photos / "0.png", secret)
    size = secret.stat().st_size
    ids = ["../secret.png", str(secret), "shelf/../../secret.png", "..\\secret.png", "a\0b"]
    from dataclasses import replace

    with index_.writer() as writer:
        for image in ids:
            writer.add(replace(rows, image=image), json.dumps({"path": "/nowhere", "size": size, "mtime_ns": 0}))
    root = tmp_path / "root"
    root.mkdir()
    with serving(index, Options(photos=root, decoders=1)) as running:
        retrieval = running.service.current.retrieval
        for image in ids:
            assert IndexedPhotos(root).path_of(retrieval.index, image) is None, image
        assert running.client.get("/v1/photos/..%2Fsecret.png").status_code == 404
