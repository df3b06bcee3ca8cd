from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest

from objemb.index.opening import create_index, open_index
from objemb.index.remote.conformance import DIM, photo, truth, unit
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.stores._columns import column_of, field_of

pytestmark = pytest.mark.lance


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a table in an object store on loopback."""
    pytest.importorskip("lancedb")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    boto3 = pytest.importorskip("boto3")
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="shops")
    yield f"lance+s3://shops/berlin/shop?endpoint={endpoint}&region=us-east-1&allow_http=true"
    server.stop()


def test_two_writers_in_an_object_store(bucket: str) -> None:
    index = create_index(bucket, schema=UnitVectors(DIM), fingerprint="a")
    failed: list[BaseException] = []

    def write(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            mine = open_index(bucket)
            for number in range(2):
                with mine.writer() as writer:
                    writer.add(photo(f"own {seed} {number}", unit(rng, 2)))
                    writer.add(photo("both", unit(rng, 2 + seed), {"by": seed}))
        except BaseException as error:
            failed.append(error)

    writers = [Thread(target=write, args=(seed,)) for seed in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failed
    index.refresh()
    assert (len(index), index.verify()) == (5, [])
    both = index.get("both")
    assert both is not None
    assert len(both) == 2 + both.metadata["by"]
    stored = [one for one, _ in index.described()]
    query = photo("q", unit(np.random.default_rng(5), 2))
    assert [hit.image for hit in index.search(query, 5)] == [entry[0] for entry in truth(stored, query, 5)]  # type: ignore[arg-type]
    assert "hidden" not in repr(index.info())


def test_a_new_image_that_two_writers_add_at_once_is_there_once(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    address = f"lance:{tmp_path}/shop"
    index = create_index(address, schema=UnitVectors(DIM), fingerprint="a")
    together = Barrier(2)

    def write(seed: int) -> None:
        rng, mine = np.random.default_rng(seed), open_index(address)
        for number in range(2):
            with mine.writer() as writer:
                writer.add(photo(f"both {number}", unit(rng, 2 + seed), {"by": seed}))
                together.wait(timeout=60)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, (0, 1))) == [None, None]
    index.refresh()
    assert (len(index), index.verify()) == (2, [])
    for number in range(2):
        both = index.get(f"both {number}")
        assert both is not None
        assert len(both) == 2 + both.metadata["by"]


def test_a_new_image_that_another_writes_between_looking_and_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb")
    from lancedb.table import LanceTable

    address = f"lance:{tmp_path}/shop"
    index = create_index(address, schema=UnitVectors(DIM), fingerprint="a")
    rng, count_rows = np.random.default_rng(0), LanceTable.count_rows

    def counted(table: LanceTable, where: str) -> int:
        found: int = count_rows(table, where)
        monkeypatch.setattr(LanceTable, "count_rows", count_rows)
        with open_index(address).writer() as other:
            other.add(photo("both", unit(rng, 5), {"by": "other"}))
        return found

    with index.writer() as writer:
        writer.add(photo("both", unit(rng, 2), {"by": "first"}))
        monkeypatch.setattr(LanceTable, "count_rows", counted)
    assert (len(index), index.verify()) == (1, [])
    both = index.get("both")
    assert both is not None
    assert (len(both), both.metadata["by"]) == (2, "first")


@pytest.mark.parametrize("key", ["price", "two words", "Price", "x_y", "ä.b`'", "", "text_a"])
def test_names_of_columns(key: str) -> None:
    for kind in ("text", "number", "boolean", "null"):
        assert field_of(column_of(kind, key)) == (kind, key)
        assert column_of(kind, key).replace("_", "").isalnum()
    assert field_of("image") is None


@pytest.mark.parametrize("address", ["lance://data/shop", "lance+ftp://host/shop", "lance:/data/my shop", "lance:"])
def test_addresses_that_are_incomplete(address: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        open_index(address)


def test_unknown_options() -> None:
    with pytest.raises(ValueError, match=r"expected the options .*, found 'regoin' .did you mean 'region'"):
        open_index("lance+s3://bucket/shop?regoin=x")
