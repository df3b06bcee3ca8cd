"""Object stores, on a server on loopback that speaks S3."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from objemb.images.decode import UnreadableImageError
from objemb.images.object_stores import find_object, in_object_store, joined, key_of, object_bytes
from objemb.images.sources import ImageRef, SkippedImage, find_images
from objemb.index.store import Index
from objemb.search.blocks import Task
from objemb.search.indexing import photo_path
from tests.cli.conftest import Run, model, newer, parsed, run

__all__ = ["model", "newer", "run"]


def png(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A file system of S3 with the bucket ``shop``."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    s3fs = pytest.importorskip("s3fs")
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        store.mkdir("shop")
        yield store
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def shelf(bucket: Any) -> Any:
    """Three photos, one of them broken, among files that are none."""
    if bucket.exists("shop/shelf"):
        bucket.rm("shop/shelf", recursive=True)
    contents = {"b.png": png(0), "a/c.png": png(1), "broken.png": b"\x89PNG\r\n\x1a\n", "notes.txt": b"x"}
    hidden = {".hidden.png": png(2), "@eaDir/d.png": png(2)}
    for name, content in {**contents, **hidden}.items():
        bucket.pipe_file(f"shop/shelf/{name}", content)
    return bucket


def test_addresses() -> None:
    assert in_object_store("S3://bucket/a")
    assert not any(map(in_object_store, ["https://host/a", "s3:/a", "/s3/a", "a.png", "file:///a", ""]))
    assert key_of("s3://bucket/a/") == "bucket/a"
    assert joined("s3://bucket/list", "../photos/./a.png") == "s3://bucket/photos/a.png"
    assert joined("s3://bucket/list", "gs://other/a.png") == "gs://other/a.png"
    with pytest.raises(ValueError, match="expected an address without credentials") as error:
        find_object("s3://key:secret@bucket/a")
    assert "secret" not in str(error.value)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(ImportError, match=r"s3:// needs s3fs .*pip install 'objemb\[s3\]'"):
        find_object("s3://bucket/a")
    with pytest.raises(ImportError, match=r"gs:// needs gcsfs .*pip install fsspec gcsfs"):
        object_bytes("gs://bucket/a", id="a", max_pixels=9)


def test_a_folder_of_a_store_is_a_source(shelf: Any) -> None:
    refs = list(find_images("s3://shop/shelf"))
    assert all(isinstance(ref, ImageRef) for ref in refs)
    assert [(ref.id, ref.address) for ref in refs if isinstance(ref, ImageRef)] == [
        ("a/c.png", "s3://shop/shelf/a/c.png"),
        ("b.png", "s3://shop/shelf/b.png"),
        ("broken.png", "s3://shop/shelf/broken.png"),
    ]
    assert len({ref.version for ref in refs if isinstance(ref, ImageRef)}) == 3
    (one,) = find_images(["s3://shop/shelf/b.png"])
    assert (one.id, one.path) == ("b.png", Path("shop/shelf/b.png"))
    task = Task.of([one], {"b.png": "s"}, "m")
    assert Task.from_bytes(task.to_bytes()).photos[0].address == "s3://shop/shelf/b.png"
    with pytest.raises(ValueError, match=r"found none at 's3://shop/nowhere'"):
        find_images("s3://shop/nowhere")
    assert object_bytes("s3://shop/shelf/b.png", id="b", max_pixels=1200) == png(0)
    with pytest.raises(UnreadableImageError, match="x: object not found"):
        object_bytes("s3://shop/shelf/x.png", id="x", max_pixels=1200)


def test_lists_in_a_store_and_lists_of_addresses(shelf: Any, tmp_path: Path) -> None:
    table = pa.table({"path": ["b.png", "s3://shop/shelf/a/c.png"], "price": [1.5, None], "id": ["one", None]})
    pq.write_table(table, tmp_path / "list.parquet")
    shelf.put_file(str(tmp_path / "list.parquet"), "shop/shelf/list.parquet")
    inside = list(find_images("s3://shop/shelf/list.parquet"))
    assert [(i.id, i.address) for i in inside if isinstance(i, ImageRef)] == [
        ("one", "s3://shop/shelf/b.png"),
        ("a/c.png", "s3://shop/shelf/a/c.png"),
    ]
    assert isinstance(inside[0], ImageRef)
    assert inside[0].metadata == {"price": 1.5}
    (tmp_path / "list.txt").write_text("s3://shop/shelf/b.png\nhttps://host/a.png\n")
    here, fetched = find_images(tmp_path / "list.txt")
    assert here.id == "shop/shelf/b.png"
    assert isinstance(fetched, SkippedImage)
    assert fetched.reason == "expected a path, found an address: photos are not fetched"


def test_photos_of_a_store_are_indexed_and_their_changes_noticed(
    run: Run, shelf: Any, model: Path, newer: Path, tmp_path: Path
) -> None:
    listed, index = tmp_path / "list.csv", tmp_path / "index"
    listed.write_text("path,shop\ns3://shop/shelf/b.png,north\ns3://shop/shelf/gone.png,south\n")
    command = ("index", "s3://shop/shelf", listed, "-o", index, "--model", model, "--json")
    report = parsed(run(*command, code=3))
    assert (report["added"], report["skipped"], report["images"]) == (2, 2, 2)
    skipped = [json.loads(line) for line in Path(report["errors"]).read_text().splitlines()]
    assert [(one["id"], one["path"]) for one in skipped] == [
        ("broken.png", "s3://shop/shelf/broken.png"),
        ("shop/shelf/gone.png", "s3://shop/shelf/gone.png"),
    ]
    assert skipped[1]["reason"] == "object not found"
    stamp = Index.open(index).stamp("b.png")
    assert json.loads(stamp or "")["address"] == "s3://shop/shelf/b.png"
    assert photo_path(stamp) is None  # no file of this machine
    assert parsed(run(*command, "--prune", code=3))["unchanged"] == 2
    moved = parsed(run("migrate", index, "--model", newer, "--json"))
    assert (moved["described"], moved["left_out"], moved["images"]) == (2, 0, 2)
    assert Index.open(index).stamp("b.png") == stamp
    shelf.pipe_file("shop/shelf/b.png", png(9))
    gone = parsed(run("migrate", index, "--model", model, "--drop-old", "--json", code=3))
    assert (gone["described"], gone["left_out"], gone["images"]) == (1, 1, 1)
    (left,) = [json.loads(line) for line in Path(gone["errors"]).read_text().splitlines()]
    assert (left["path"], left["reason"]) == ("s3://shop/shelf/b.png", "changed since it was indexed")
    report = parsed(run(*command, code=3))
    assert (report["added"], report["unchanged"], report["images"]) == (1, 1, 2)
