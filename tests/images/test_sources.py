from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from objemb.images import ImageRef, SkippedImage, find_images, stream_photos
from tests.images.listing import ids, refs, touch
from tests.images.samples import flat, write

# --- folders ---


def test_a_folder_is_walked_in_the_order_of_bytes(tmp_path: Path) -> None:
    touch(
        tmp_path, "b/2.jpg", "b/10.jpg", "b/c/1.png", "a.JPG", "Z.jpeg", "b.webp", "é.bmp", "x.tif", "x.TIFF", "y.jpe"
    )
    assert ids(tmp_path) == [
        "Z.jpeg", "a.JPG", "b/10.jpg", "b/2.jpg", "b/c/1.png", "b.webp", "x.TIFF", "x.tif", "y.jpe", "é.bmp",
    ]  # fmt: skip
    assert next(iter(find_images([tmp_path]))) == ImageRef("Z.jpeg", tmp_path / "Z.jpeg")


def test_the_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"{i % 3}/{i}.png" for i in range(30)))
    expected = ids(tmp_path)
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: Path) -> None:
            with scandir(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert ids(tmp_path) == expected


def test_other_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.txt", "a.gif", "jpg", ".hidden.jpg", "._a.jpg", ".git/b.jpg", "c/.d/e.jpg", "thumbs.db")
    assert ids(tmp_path) == ["a.jpg"]


def test_photos_of_other_names_are_found_by_their_content(tmp_path: Path) -> None:
    jpeg, png = flat("JPEG"), flat("PNG")
    for name in ("b.jfif", "c.mpo", "d.pjpeg", "e", "f.jpg_large", "g.heic", "h.JPG~", "i.photo 2.0"):
        write(tmp_path / name, jpeg)
    write(tmp_path / "k.gif", png)
    # what is named like something else, or starts like nothing that is looked at
    for name in ("l.txt", "m.mp4", "n.json", "o.zip", "p.jpg.gz", "q.html"):
        write(tmp_path / name, jpeg)
    write(tmp_path / "r.CR2", b"II*\0" + bytes(40))
    write(tmp_path / "s", b"BM is how this text starts")
    write(tmp_path / "t.yaml", b"")
    (tmp_path / "u").symlink_to("nowhere")
    os.mkfifo(tmp_path / "v")
    assert ids(tmp_path) == [
        "b.jfif",
        "c.mpo",
        "d.pjpeg",
        "e",
        "f.jpg_large",
        "g.heic",
        "h.JPG~",
        "i.photo 2.0",
        "k.gif",
    ]


def test_formats_that_are_not_decoded_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "a.HEIC", b"\0\0\0\x18ftypheic" + bytes(20))
    write(tmp_path / "b", b"\0\0\0\x1cftypavif" + bytes(20))
    write(tmp_path / "c.gif", flat("GIF", mode="P", colour=0))
    write(tmp_path / "d.mov", b"\0\0\0\x14ftypqt  " + bytes(20))
    found = list(stream_photos(find_images([tmp_path])))
    expected = "expected one of JPEG, PNG, WebP, BMP, TIFF, found "
    assert [(f.id, f.reason.removeprefix(expected)) for f in found if isinstance(f, SkippedImage)] == [
        ("a.HEIC", "HEIC"),
        ("b", "AVIF"),
        ("c.gif", "GIF"),
    ]
    assert len(found) == 3


def test_folders_that_systems_make_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "@eaDir/a/THUMB_M.jpg", "b/@eaDir/c.jpg", "b/d.jpg", "#recycle/e.jpg")
    touch(tmp_path, "$RECYCLE.BIN/f.jpg", "__MACOSX/g.jpg", "eaDir/h.jpg")
    assert ids(tmp_path) == ["a.jpg", "b/d.jpg", "eaDir/h.jpg"]
    assert ids(tmp_path / "@eaDir") == ["a/THUMB_M.jpg"], "but they may be asked for"


def test_a_hidden_folder_that_is_asked_for_is_walked(tmp_path: Path) -> None:
    touch(tmp_path, ".photos/a.jpg")
    assert ids(tmp_path / ".photos") == ["a.jpg"]


def test_a_folder_named_like_an_image_is_reported(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg/c.png")
    path = str(tmp_path / "b.jpg")
    assert list(find_images([tmp_path])) == [
        ImageRef("a.jpg", tmp_path / "a.jpg"),
        SkippedImage("b.jpg", path, "expected a file, found a folder"),
    ]
    assert ids(tmp_path / "b.jpg") == ["c.png"], "but it may be asked for"


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "elsewhere/deep/b.jpg")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "up").symlink_to("..")
    (tmp_path / "photos" / "z").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "photos" / "gone.jpg").symlink_to("nowhere.jpg")
    assert ids(tmp_path / "photos") == ["a.jpg", "gone.jpg", "self.jpg", "up/elsewhere/deep/b.jpg"]


def test_a_file_and_its_link_are_one_image(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg")
    (tmp_path / "a.jpg").symlink_to("b.jpg")
    assert ids(tmp_path) == ["a.jpg"]


def test_an_empty_folder_has_no_images(tmp_path: Path) -> None:
    assert ids(tmp_path) == []
    assert ids() == []


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "locked/b.jpg", "z.jpg")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(find_images([tmp_path]))
    assert [f.id for f in found] == ["a.jpg", "locked/", "z.jpg"]
    locked = str(tmp_path / "locked")
    assert found[1] == SkippedImage("locked/", locked, "cannot list the folder: Permission denied")


def test_folders_are_read_only_when_they_are_reached(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    found = find_images([tmp_path])
    assert next(found).id == "a/1.jpg"
    touch(tmp_path, "b/2.jpg")
    assert [f.id for f in found] == ["b/1.jpg", "b/2.jpg"]


def test_deep_folders(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(300):
        deep = deep / "d"
    touch(deep, "a.jpg")
    assert ids(tmp_path) == ["d/" * 300 + "a.jpg"]


def test_names_that_are_not_utf8_give_ids_that_are(tmp_path: Path) -> None:
    raw = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    try:
        Path(raw).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (found,) = refs(tmp_path)
    assert found.id == r"caf\udce9.png"
    assert found.path.exists()
    json.dumps(found.to_json(), ensure_ascii=False).encode("utf-8")
    assert pa.array([found.id]).to_pylist() == [found.id]
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.png\n")
    assert refs(tmp_path / "list.txt") == [found]


# --- single files, several sources ---


def test_single_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.unknown")
    assert list(find_images([tmp_path / "a.jpg", str(tmp_path / "b.unknown")])) == [
        ImageRef("a.jpg", tmp_path / "a.jpg"),
        ImageRef("b.unknown", tmp_path / "b.unknown"),
    ]
    assert [f.id for f in find_images(tmp_path / "a.jpg")] == ["a.jpg"], "one source needs no list"
    assert [f.id for f in find_images(str(tmp_path))] == ["a.jpg"]


def test_missing_sources_are_all_named_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(
        ValueError, match=r"expected folders, images or lists that exist, found none at '.*x', '.*y.csv'"
    ):
        find_images([tmp_path / "x", tmp_path, tmp_path / "y.csv"])


def test_a_file_is_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.jpg")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "list.txt", b"a/2.jpg\na/../a/1.jpg\na/2.jpg\n")
    assert ids("a", tmp_path / "a", "a/1.jpg", "list.txt") == ["1.jpg", "2.jpg"]
    assert ids("list.txt", "a") == ["a/2.jpg", "a/1.jpg"]


def test_ids_that_are_taken_get_the_name_of_their_source(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jpg", "c/b/1.jpg", "d/b/1.jpg")
    a, b, c, d = (tmp_path / name for name in ("a", "b", "c/b", "d/b"))
    assert ids(a, b, c, d) == ["1.jpg", "b/1.jpg", "2.jpg", "b-2/1.jpg", "b-3/1.jpg"]
    assert ids(a, b, c, d) == ids(a, b, c, d)
    assert ids(a / "1.jpg", b / "1.jpg") == ["1.jpg", "b/1.jpg"]
    write(tmp_path / "shop.txt", b"a/1.jpg\nb/1.jpg\n")
    write(tmp_path / "d" / "shop.txt", b"b/1.jpg\n")
    assert ids(tmp_path / "shop.txt", tmp_path / "d" / "shop.txt") == ["a/1.jpg", "b/1.jpg", "shop/b/1.jpg"]


# --- records ---


def test_records_as_json(tmp_path: Path) -> None:
    assert ImageRef("a", Path("b/a.jpg"), {"x": 1}).to_json() == {"id": "a", "path": "b/a.jpg", "metadata": {"x": 1}}
    skipped = SkippedImage("a", "b/a.jpg", "file not found")
    assert skipped.to_json() == {"id": "a", "path": "b/a.jpg", "reason": "file not found"}
