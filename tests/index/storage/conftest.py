"""An index that strangers get at."""

from __future__ import annotations

from pathlib import Path

import pytest

from objemb.index.store import Index
from tests.index.made import described, new


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return new(tmp_path / "i", *(described(f"{n}", n, price=n) for n in range(4)))


def add(index: Index, name: str = "new") -> None:
    with index.writer() as writer:
        writer.add(described(name, 9))
