"""Every kind of index passes the same cases."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from objemb.index.remote.conformance import Conformance
from tests.index.stores.servers import postgres


class TestFolder(Conformance):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.place = tmp_path

    def new_address(self) -> str:
        return str(self.place / uuid.uuid4().hex)


@pytest.mark.postgres
class TestPostgresql(Conformance):
    def new_address(self) -> str:
        table = f"t{uuid.uuid4().hex[:12]}"
        if given := os.environ.get("OBJEMB_TEST_POSTGRES"):
            return f"{given}{'&' if '?' in given else '?'}table={table}"
        server = postgres()
        if server is None:
            pytest.skip("neither OBJEMB_TEST_POSTGRES nor the packages pgserver and psycopg")
        return server.address(table)


@pytest.mark.lance
class TestLance(Conformance):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        pytest.importorskip("lancedb")
        self.place = tmp_path

    def new_address(self) -> str:
        return f"lance:{self.place}/t{uuid.uuid4().hex}"


@pytest.mark.qdrant
@pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Local mode performs exact")
class TestQdrant(Conformance):
    """The server that OBJEMB_TEST_QDRANT names, or the client's own engine in memory, which has no index."""

    @pytest.fixture(autouse=True)
    def _place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        client = pytest.importorskip("qdrant_client")
        self.server = os.environ.get("OBJEMB_TEST_QDRANT")
        if self.server is None:
            held = client.QdrantClient(":memory:")
            monkeypatch.setattr(held, "close", lambda: None)
            monkeypatch.setattr("objemb.index.stores.qdrant.connect", lambda address: held)

    def new_address(self) -> str:
        server = self.server or "http://localhost"
        base = server.replace("https:", "qdrant+https:", 1).replace("http:", "qdrant:", 1)
        return f"{base}/t{uuid.uuid4().hex}"


@pytest.mark.qdrant
class TestQdrantEdge(Conformance):
    """The core of Qdrant's server in this process, with indexes of payloads and vectors."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("qdrant_client")
        pytest.importorskip("qdrant_edge")
        from tests.index.stores.edge import EdgeClient

        held = EdgeClient(tmp_path / "edge")
        monkeypatch.setattr(held, "close", lambda: None)
        monkeypatch.setattr("objemb.index.stores.qdrant.connect", lambda address: held)

    def new_address(self) -> str:
        return f"qdrant://localhost/t{uuid.uuid4().hex}"
