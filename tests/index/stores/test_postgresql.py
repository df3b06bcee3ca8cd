from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

from objemb.index.opening import create_index, open_index
from objemb.index.remote.conformance import DIM, photo, unit
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.stores.base import StoreError
from objemb.structures import RegionDescriptors
from tests.index.stores.servers import Postgres, postgres

pytestmark = pytest.mark.postgres
TOOL = Path(__file__).parents[3] / "tools" / "torture_engines.py"


@pytest.fixture
def server() -> Postgres:
    started = postgres()
    if started is None:
        pytest.skip("needs the packages pgserver and psycopg")
    return started


@pytest.mark.parametrize("table", ["", "Shop", "a-b", "x" * 41, "shop;drop"])
def test_names_of_tables(table: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(ValueError, match=r"expected \?table=NAME of at most 40"):
        open_index(f"postgresql://host/db?table={table}")


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("PGPASSWORD", "hidden")
    with pytest.raises(StoreError, match="connection") as error:
        open_index(f"postgresql:///db?host={tmp_path}&table=shop")
    assert "hidden" not in str(error.value)


def test_a_connection_that_was_lost_is_made_anew(server: Postgres) -> None:
    address = server.address(f"t{uuid.uuid4().hex[:12]}")
    index = create_index(address, schema=UnitVectors(DIM), fingerprint="a")
    one = photo("a", unit(np.random.default_rng(0), 3))
    with index.writer() as writer:
        writer.add(one)
    server.kill()
    server.start()
    assert index.mark() is None  # the old connection
    index.refresh()
    assert [hit.image for hit in index.search(one)] == ["a"]


def test_metadata_that_look_like_sql(server: Postgres) -> None:
    index = create_index(server.address(f"t{uuid.uuid4().hex[:12]}"), schema=UnitVectors(DIM), fingerprint="a")
    hostile = "'; DROP TABLE x; -- %s {rows}"
    one = photo("it's %s", unit(np.random.default_rng(0), 1), {hostile: hostile})
    with index.writer() as writer:
        writer.add(one)
    index.refresh()
    quoted = hostile.replace("'", "''")
    assert [hit.image for hit in index.search(one, where=f"`{hostile}` = '{quoted}'")] == ["it's %s"]
    assert [hit.image for hit in index.search(one, where=f"`{hostile}` >= '{quoted}'")] == ["it's %s"]


def test_long_vectors_are_searched_exactly(server: Postgres) -> None:
    index = create_index(server.address(f"t{uuid.uuid4().hex[:12]}"), schema=UnitVectors(2048), fingerprint="a")
    vectors = np.eye(3, 2048, dtype=np.float32)
    one = RegionDescriptors("one", photo("one", vectors[:, :DIM]).regions, vectors)
    with index.writer() as writer:
        writer.add(one)
    index.refresh()
    with pytest.raises(ValueError, match=r"at most 2000 numbers, as HNSW .*found 2048; search stays exact"):
        index.build_structure()
    assert [hit.image for hit in index.search(one)] == ["one"]


def test_killed_writers_leave_whole_photos(server: Postgres) -> None:
    pytest.importorskip("lancedb")
    command = [sys.executable, str(TOOL), "--postgres", "2", "--lance", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reports = json.loads(done.stdout)
    assert {store: (r["kills"], r["failed"]) for store, r in reports.items()} == {"postgresql": (2, 0), "lance": (2, 0)}
    assert all(report["batches"] > 2 for report in reports.values())
