"""An index of format 1, written by the version that wrote it: it opens, is searched, verified, and grows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from objemb.index.storage.manifest import read_manifest
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.verify import verify
from objemb.index.store import Index
from objemb.structures import RegionDescriptors, Regions, SearchResult
from tests.index.made import described, new

STORED = Path(__file__).parent / "format1"
EXPECTED: dict[str, Any] = json.loads((STORED / "answers.json").read_text(encoding="utf-8"))
IDS = [image for image, _, _ in EXPECTED["images"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two segments under a structure of FAISS, one that is newer, deleted images in two of them."""
    return Path(shutil.copytree(STORED / "index", tmp_path / "index"))


def query(number: int) -> RegionDescriptors:
    data = EXPECTED["queries"][number]
    return RegionDescriptors("q", Regions(torch.tensor(data["boxes"]), (100, 120)), torch.tensor(data["vectors"]))


def plain(result: SearchResult) -> list[dict[str, Any]]:
    return [
        {
            "image": hit.image,
            "score": hit.score,
            "box": list(hit.box),
            "query_box": list(hit.query_box),
            "label": hit.label,
            "metadata": dict(hit.metadata),
            "runners_up": [pytest.approx(other.score, abs=1e-6) for other in hit.runners_up],
        }
        for hit in result
    ]


def check_answers(index: Index, *, exact: bool | None) -> None:
    for answer in EXPECTED["answers"]:
        if exact is None or exact == answer["exact"]:
            hits = plain(index.search(query(answer["query"]), 3, where=answer["where"], exact=answer["exact"]))
            assert hits == answer["hits"]


def test_it_opens_and_shows_what_it_showed(folder: Path) -> None:
    index = Index.open(folder)
    info = index.info()
    assert {key: info[key] for key in EXPECTED["info"]} == EXPECTED["info"]
    assert info["format"] == 1
    assert info["schema"] == "unit_vectors"
    assert [list(image) for image in index.images()] == EXPECTED["images"]
    assert verify(folder) == []
    assert {p.name for p in folder.iterdir()} == {p.name for p in (STORED / "index").iterdir()}


def test_exact_answers_are_those_that_were_stored(folder: Path) -> None:
    check_answers(Index.open(folder), exact=True)


def test_approximate_answers_are_those_that_were_stored(folder: Path) -> None:
    pytest.importorskip("faiss")
    check_answers(Index.open(folder), exact=None)


def test_the_first_writer_leaves_format_2_over_the_same_files(folder: Path) -> None:
    index, before = Index.open(folder), read_manifest(folder)
    with index.writer() as writer:
        assert IDS[0] in writer
        assert read_manifest(folder) == before  # opening a writer changes nothing
        writer.add(described("more", 5, price=1))
    after = read_manifest(folder)
    assert (before.format, after.format) == (1, 2)
    assert after.segments[: len(before.segments)] == before.segments
    assert after.structures == before.structures
    assert after.schema == before.schema == UnitVectors(8, "float32")
    assert index.info()["format"] == 2
    assert [i.id for i in index.images()] == [*IDS, "more"]
    assert verify(folder) == []
    assert index.delete(["more"]) == []
    check_answers(Index.open(folder), exact=True)


def test_it_is_deleted_from_compacted_and_merged(folder: Path, tmp_path: Path) -> None:
    index = Index.open(folder)
    assert index.delete([IDS[1], "nobody"]) == ["nobody"]
    assert index.compact()
    assert [i.id for i in index.images()] == [IDS[0], *IDS[2:]]
    assert index.info()["approximate"] is None
    assert verify(folder) == []
    target = new(tmp_path / "target", described("mine", 1))
    target.merge([STORED / "index"])
    assert [i.id for i in target.images()] == ["mine", *IDS]
    assert target.delete(["mine"]) == []
    check_answers(target, exact=True)
    index.merge([new(tmp_path / "other", described("theirs", 2))])
    assert [i.id for i in index.images()] == [IDS[0], *IDS[2:], "theirs"]
    assert verify(folder) == verify(target.path) == []


def test_compacting_it_builds_its_structure_anew(folder: Path) -> None:
    pytest.importorskip("faiss")
    index = Index.open(folder)
    assert index.compact(rebuild=True)
    assert (index.info()["approximate"], index.info()["approximate_share"]) == ("ivf_sq8", 1)
    check_answers(index, exact=None)


@pytest.mark.parametrize("place", ["manifest", "00000001.vectors", "00000004.ann", "00000006.deleted"])
def test_damage_is_found(folder: Path, place: str) -> None:
    data = bytearray((folder / place).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / place).write_bytes(data)
    assert place in verify(folder)[0]
