from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from objemb.index.addresses import parse_address


@pytest.mark.parametrize("folder", ["shop.index", "/data/x", "C:\\data", "photos:2020/index", Path("a") / "b", "."])
def test_folders(folder: str | Path) -> None:
    assert parse_address(folder) is None


def test_the_parts_of_an_address() -> None:
    one = parse_address("postgresql://me%40work@db.local:5433/goods?table=shop&sslmode=require")
    assert one is not None
    assert (one.store, one.transport, one.host, one.port, one.user) == ("postgresql", "", "db.local", 5433, "me@work")
    assert (one.path, one.options, one.table) == ("/goods", {"table": "shop", "sslmode": "require"}, "shop")
    two = parse_address("lance+s3://bucket/a/shop")
    assert two is not None
    assert (two.store, two.transport, two.host, two.path, two.table) == ("lance", "s3", "bucket", "/a/shop", "shop")
    three = parse_address("lance:/data/my%20shop")
    assert three is not None
    assert (three.path, three.host) == ("/data/my shop", "")


def test_an_unknown_store_is_named() -> None:
    with pytest.raises(ValueError, match=r"one of .*postgresql.*found 'postgres' .did you mean 'postgresql'"):
        parse_address("postgres://host/db?table=shop")


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:hidden@host/db?table=shop",
        "postgresql://host/db?table=shop&password=hidden",
        "qdrant://host/shop?api_key=hidden",
        "lance+s3://bucket/shop?aws_secret_access_key=hidden",
        "postgresql://me:hidden@host:port/db",
    ],
)
def test_a_secret_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ValueError, match="address: expected") as error:
        parse_address(address)
    assert "hidden" not in str(error.value)
    if "port" not in address:
        assert any(name in str(error.value) for name in ("PGPASSWORD", "QDRANT_API_KEY", "AWS_SECRET_ACCESS_KEY"))


def test_a_path_drops_a_slash() -> None:
    with pytest.raises(ValueError, match="found a Path, which drops a slash"):
        parse_address(Path("postgresql://host/db?table=shop"))


def test_a_folder_is_searched_without_the_clients_of_stores(tmp_path: Path) -> None:
    program = f"""
import sys
import numpy as np
from objemb.index.opening import create_index, open_index
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.structures import RegionDescriptors, Regions
create_index({str(tmp_path / "i")!r}, schema=UnitVectors(3), fingerprint="a")
one = RegionDescriptors("q", Regions.whole((5, 5)), np.eye(1, 3, dtype=np.float32))
import objemb.cli.app, objemb.cli.search, objemb.cli.index
assert not open_index({str(tmp_path / "i")!r}).search(one).hits
print(sorted({{"psycopg", "lancedb", "qdrant_client", "ray", "boto3"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("module", "address", "extra"),
    [
        ("psycopg", "postgresql://host/db?table=shop", "postgres"),
        ("lancedb", "lance:/data/shop", "lance"),
        ("qdrant_client", "qdrant://host/shop", "qdrant"),
    ],
)
def test_a_client_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, address: str, extra: str
) -> None:
    from objemb.index.opening import open_index

    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'objemb\[{extra}\]'"):
        open_index(address)
