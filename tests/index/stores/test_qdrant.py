from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objemb.index.collection import ImageCollection
from objemb.index.opening import create_index, open_index
from objemb.index.remote.conformance import DIM, photo, unit
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.stores import qdrant
from objemb.index.stores.base import StoreError

pytestmark = [
    pytest.mark.qdrant,
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Local mode performs exact"),
]
TOOL = Path(__file__).parents[3] / "tools" / "torture_engines.py"
OLD, NEW = photo("a", unit(np.random.default_rng(0), 5)), photo("a", unit(np.random.default_rng(1), 4))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    held = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
    monkeypatch.setattr(qdrant, "connect", lambda address: held)
    yield held
    held.close()


@pytest.fixture
def index(client: Any) -> ImageCollection:
    made = create_index("qdrant://localhost/shop", schema=UnitVectors(DIM), fingerprint="a")
    with made.writer() as writer:
        writer.add(OLD)
    return made


def replaced(index: ImageCollection) -> None:
    with index.writer() as writer:
        writer.add(NEW)


def boxes_of(index: ImageCollection) -> list[list[float]]:
    stored = open_index(index.address).get("a")
    assert stored is not None
    hits = index.search(NEW, 5)
    assert [hit.image for hit in hits] == ["a"]
    assert list(hits[0].box) in stored.regions.boxes.tolist()
    return stored.regions.boxes.tolist()


@pytest.mark.parametrize("written", [1, 3])
def test_half_a_new_version_is_not_shown(
    client: Any, index: ImageCollection, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    upsert = client.upsert

    def cut_off(collection: str, points: list[Any], **more: Any) -> None:
        upsert(collection, points[:written] if collection == "shop" else points, **more)
        if collection == "shop":
            raise OSError("killed")

    monkeypatch.setattr(client, "upsert", cut_off)
    with pytest.raises(StoreError, match="killed"):
        replaced(index)
    assert client.count("shop").count == 5 + written
    assert boxes_of(index) == OLD.regions.boxes.tolist()
    assert any(f"expected 4 rows, found {written}" in problem for problem in index.verify())

    monkeypatch.undo()
    monkeypatch.setattr(qdrant, "connect", lambda address: client)
    replaced(index)
    assert boxes_of(index) == NEW.regions.boxes.tolist()
    assert client.count("shop").count == 4
    assert index.verify() == []


def test_an_older_version_that_was_not_deleted_is_not_shown(
    client: Any, index: ImageCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(client, "delete", killed)
        with pytest.raises(StoreError, match="killed"):
            replaced(index)
    assert client.count("shop").count == 9
    assert boxes_of(index) == NEW.regions.boxes.tolist()
    assert any("found several" in problem for problem in index.verify())
    replaced(index)
    assert client.count("shop").count == 4


def test_compacting_removes_what_killed_writers_left(
    client: Any, index: ImageCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    upsert, delete = client.upsert, client.delete

    def cut_off(collection: str, points: list[Any], **more: Any) -> None:
        upsert(collection, points[:2] if collection == "shop" else points, **more)

    with monkeypatch.context() as patched:
        patched.setattr(client, "delete", lambda *_, **__: None)
        replaced(index)  # beside the old version
        patched.setattr(client, "upsert", cut_off)
        replaced(index)  # a part, by a writer that may still be at work
        with index.writer() as writer:
            writer.add(photo("b", NEW.vectors))
    assert client.count("shop").count == 5 + 4 + 2 + 2
    index.compact()
    assert client.count("shop").count == 4 + 2 + 2
    monkeypatch.setattr(qdrant, "KEPT_SECONDS", 0.0)
    index.compact()
    assert (client.count("shop").count, index.verify()) == (4, [])
    assert client.delete == delete
    assert boxes_of(index) == NEW.regions.boxes.tolist()


def test_the_next_generation_is_verified_too(
    client: Any, index: ImageCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = index.generations.begin(UnitVectors(DIM), "b", None)
    upsert = client.upsert

    def cut_off(collection: str, points: list[Any], **more: Any) -> None:
        upsert(collection, points[:3] if collection == "shop_g1" else points, **more)

    monkeypatch.setattr(client, "upsert", cut_off)
    replaced(made)
    (problem,) = index.verify()
    assert "next: a: expected 4 rows, found 3" in problem
    assert made.generations.drop("next")
    assert index.verify() == []


@pytest.mark.parametrize("address", ["qdrant:///shop", "qdrant://host", "qdrant+udp://host/shop", "qdrant://host/a b"])
def test_addresses_that_are_incomplete(address: str) -> None:
    pytest.importorskip("qdrant_client")
    with pytest.raises(ValueError, match=r"expected qdrant://host:6333/shop"):
        open_index(address)


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    module = pytest.importorskip("qdrant_client")
    monkeypatch.setattr(module, "QdrantClient", lambda **given: seen.update(given))
    monkeypatch.setenv("QDRANT_API_KEY", "hidden")
    from objemb.index.addresses import parse_address

    address = parse_address("qdrant+https://[::1]:7000/shop")
    assert address is not None
    qdrant.connect(address)
    assert (seen["url"], seen["api_key"]) == ("https://[::1]:7000", "hidden")


def test_killed_writers_leave_whole_photos() -> None:
    pytest.importorskip("qdrant_client")
    pytest.importorskip("qdrant_edge")
    command = [sys.executable, str(TOOL), "--qdrant", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)["qdrant"]
    assert (report["kills"], report["failed"]) == (2, 0)
    assert report["batches"] > 2
