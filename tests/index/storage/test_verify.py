"""Damage: found by verify, refused or survived by everything else."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from objemb.checks import ArtefactMismatchError, DamagedIndexError, IndexFolderError, ObjembError
from objemb.index.storage.files import FileRecord
from objemb.index.storage.manifest import SegmentRecord, read_manifest
from objemb.index.storage.verify import verify
from objemb.index.store import Index
from tests.index.made import described, new, publish, store_file


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = new(tmp_path / "i", *(described(f"{n}", n, price=n) for n in range(5)))
    made.delete(["3"])
    return made


def use(path: Path) -> None:
    index = Index.open(path)
    index.info()
    list(index.images())
    index.search(described("q"), where="price < 4 and label = can")


def test_every_byte_of_the_manifest_counts(index: Index) -> None:
    path = index.path / "manifest"
    original = path.read_bytes()
    for place in {*range(0, len(original), 9), *range(90), len(original) - 1}:
        for changed in (original[:place], original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :]):
            path.write_bytes(changed)
            assert verify(index.path), place
            with pytest.raises(ObjembError):
                Index.open(index.path)


@pytest.mark.parametrize("kind", ["vectors", "rows", "images", "deleted"])
def test_every_change_of_a_file_is_found_and_survived(index: Index, kind: str) -> None:
    path = next(index.path.glob(f"*.{kind}"))
    original = path.read_bytes()
    places = range(0, len(original), max(1, len(original) // 40))
    for place in places:
        for changed in (original[:place], original[:place] + bytes([original[place] ^ 128]) + original[place + 1 :]):
            path.write_bytes(changed)
            assert any(path.name in problem for problem in index.verify())
            with suppress(ObjembError):
                use(index.path)
    path.write_bytes(original + b"\0")
    assert "expected" in index.verify()[0]
    path.unlink()
    assert any(path.name in p for p in verify(index.path))
    with pytest.raises(DamagedIndexError, match=path.name):
        Index.open(index.path)
    path.mkdir()
    assert any(path.name in p for p in verify(index.path))
    with pytest.raises(DamagedIndexError, match=path.name):
        Index.open(index.path)


def test_a_healthy_index_has_no_problems(index: Index) -> None:
    assert index.verify() == verify(str(index.path)) == []
    with pytest.raises(IndexFolderError):
        verify(index.path.parent)


def test_a_newer_format_is_refused_with_both_versions(index: Index) -> None:
    path = index.path / "manifest"
    path.write_bytes(path.read_bytes().replace(b"objemb-index 2", b"objemb-index 3", 1))
    with pytest.raises(ArtefactMismatchError, match="format 1 or 2, found 3: a newer"):
        Index.open(index.path)


def test_progress_is_reported(index: Index) -> None:
    steps: list[int] = []
    assert verify(index.path, steps.append) == []
    vectors = sum(f.size for f in read_manifest(index.path).column_files)
    assert sum(steps) == index.info()["bytes"] + vectors


ANN = '{"name": "00000002.ann", "bytes": 1, "sha256": "' + "0" * 64 + '"}'


def structure(fields: str) -> str:
    return '"structures": [{' + fields + ', "files": {"index": ' + ANN + "}}]"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"dim": 8', '"dim": 9'),
        ('"dtype": "float32"', '"dtype": "int8"'),
        ("00000001.rows", "../../../etc.rows"),
        ('"segments": [', '"segments": 5, "x": ['),
        ('"next_image": 5', '"next_images": 5'),
        ('"rows": 15', '"rows": -15'),
        ('"rows": 15', '"rows": "15"'),
        ('"sha256": "', '"sha256": "g'),
        ("{", "[{"),
        ('"dim": 8', '"dim": 8.0'),
        ('"dim": 8', '"dim": true'),
        ('"dim": 8', '"dim": ' + "9" * 30),
        ('"fingerprint": "model-a"', '"fingerprint": 7'),
        ('"model": null', '"model": ["path"]'),
        ('"created": "2', '"created": 2, "was": "2'),
        ('"next_image": 5', '"next_image": -5'),
        ('"next_image": 5', '"next_image": 5.5'),
        ('"next_file": 3', '"next_file": 1'),
        ('"next_file": 3', '"next_file": null'),
        ('"bytes": 480', '"bytes": 480.0'),
        ('"images": 5', '"images": "5"'),
        ('"images": 5', '"images": false'),
        ('"sha256": "', '"sha256": 5, "was": "'),
        ('"name": "00000001.rows"', '"name": 1'),
        ('"generation": 2', '"generation": {}'),
        ('"schema": {', '"schema": 5, "x": {'),
        ('"name": "unit_vectors"', '"name": "unit_matrices"'),
        ('"name": "unit_vectors"', '"name": ["unit_vectors"]'),
        ('"dtype": "float32"', '"dtype": "float32", "more": 1'),
        ('"vectors": {', '"words": {'),
        ('"vectors": {', '"words": ' + ANN + ', "vectors": {'),
        ('"structures": []', structure('"engine": 3, "settings": {}, "segments": 1')),
        ('"structures": []', structure('"engine": "ivf_sq8", "settings": [], "segments": 1')),
        ('"structures": []', structure('"engine": "ivf_sq8", "settings": {}, "segments": 1.0')),
        ('"structures": []', structure('"engine": "ivf_sq8", "settings": {}, "segments": 9')),
        ('"structures": []', structure('"engine": "ivf_sq8", "segments": 1')),
        ('"structures": []', '"structures": {"a": 1}'),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(index: Index, old: str, new: str) -> None:
    """Right checksum, wrong contents: written by hand or by a broken program."""
    path = index.path / "manifest"
    body = path.read_bytes().split(b"\n", 1)[1]
    assert old.encode() in body
    body = body.replace(old.encode(), new.encode(), 1)
    path.write_bytes(f"objemb-index 2 sha256:{hashlib.sha256(body).hexdigest()}\n".encode() + body)
    with pytest.raises(DamagedIndexError, match="cannot be understood"):
        Index.open(index.path)
    assert "cannot be understood" in verify(index.path)[0]


def with_file(segment: SegmentRecord, name: str, file: FileRecord) -> SegmentRecord:
    return replace(segment, files={**segment.files, name: file})


def test_wrong_counts_and_contents_with_right_checksums(index: Index) -> None:
    manifest = replace(read_manifest(index.path), next_file=100)
    segment = manifest.segments[0]
    vectors = np.fromfile(index.path / segment.files["vectors"].name, "<f4").reshape(-1, 8)

    def with_vectors(changed: np.ndarray) -> FileRecord:
        (index.path / "00000099.vectors").unlink(missing_ok=True)
        return store_file(index.path, "00000099.vectors", changed.astype("<f4"))

    vectors[4] *= 2
    cases = [
        (with_file(segment, "vectors", with_vectors(vectors)), "unit length"),
        (replace(segment, images=4), "expected 4 rows, found 5"),
        (with_file(segment, "rows", segment.files["images"]), "expected one batch"),
    ]
    for record, message in cases:
        publish(index.path, replace(manifest, segments=(record,)))
        assert message in " ".join(verify(index.path))
    vectors[4] = np.nan
    publish(index.path, replace(manifest, segments=(with_file(segment, "vectors", with_vectors(vectors)),)))
    assert "finite vectors" in verify(index.path)[0]
    publish(index.path, replace(manifest, segments=(segment, segment)))
    assert "ascending image numbers" in verify(index.path)[0]
    publish(index.path, replace(manifest, next_image=2))
    assert "below 2, found 4" in verify(index.path)[0]
    publish(index.path, replace(manifest, deleted=None))
    assert verify(index.path) == []


def test_an_id_that_is_there_twice_is_a_problem(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a"))
    with index.writer() as writer:
        writer.add(described("a", 2))
    publish(index.path, replace(read_manifest(index.path), deleted=None))
    assert "once, found 1 more than once" in index.verify()[0]


def test_a_reader_whose_file_is_damaged_says_so(index: Index) -> None:
    opened = Index.open(index.path)
    path = next(index.path.glob("*.rows"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedIndexError, match="SHA-256"):
        Index.open(index.path).search(described("q"))
    assert opened.verify()
