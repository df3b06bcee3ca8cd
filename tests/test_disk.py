from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from objemb import disk
from objemb.disk import file_sha256, left_beside, naming, replacing, replacing_folder, write_whole


def rights(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, umask_022: None) -> None:
    file = tmp_path / "page.html"
    write_whole(file, "old")
    assert (file.read_text(), rights(file)) == ("old", 0o644)
    with pytest.raises(TypeError), replacing(file) as partial:
        partial.write_text(b"half a pa")  # type: ignore[arg-type]
    assert file.read_text() == "old"
    with replacing(file) as partial:
        assert partial.suffix == ".html", "libraries go by it"
        partial.write_text("new")
        assert file.read_text() == "old"
    write_whole(tmp_path / "surrogate", "\udcff!")
    assert (file.read_text(), (tmp_path / "surrogate").read_bytes()) == ("new", rb"\udcff!")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "surrogate"]


def test_a_link_is_followed_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    write_whole(Path(os.devnull), "text")
    assert not Path(os.devnull).is_file()


def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for error in (OSError(28, "No space left on device"), OSError(28, "No space", "")):
        with pytest.raises(OSError, match="No space") as caught, replacing(file):
            raise error
        assert caught.value.filename in (str(file), "")
    with pytest.raises(OSError, match="No such file") as caught:
        write_whole(tmp_path / "nowhere" / "x.json", "text")
    assert caught.value.filename == str(tmp_path / "nowhere" / "x.json"), "not the hidden name"
    with pytest.raises(OSError, match="other") as caught, naming(file):
        raise FileNotFoundError(2, "No such file", "other")
    assert caught.value.filename == "other"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_the_rights_of_the_umask(tmp_path: Path, umask_022: None) -> None:
    with replacing_folder(tmp_path / "a") as partial:
        (partial / "private").touch(mode=0o600)
    assert (rights(tmp_path / "a"), rights(tmp_path / "a" / "private")) == (0o755, 0o644)
    os.umask(0o077)
    with replacing_folder(tmp_path / "a") as partial:
        (partial / "open").touch()
        (partial / "open").chmod(0o666)
    assert (rights(tmp_path / "a"), rights(tmp_path / "a" / "open")) == (0o700, 0o600)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["open"]


def fill(folder: Path, text: str, *, keep: bool = False) -> None:
    with replacing_folder(folder, keep=keep) as partial:
        (partial / "x").write_text(text)


def test_a_folder_stays_where_the_block_or_a_renaming_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    fill(folder, "old")
    with pytest.raises(KeyboardInterrupt), replacing_folder(folder):
        raise KeyboardInterrupt
    rename = os.rename
    for fault in (OSError(5, "Input/output error"), KeyboardInterrupt()):
        for number in (1, 2):  # the old one goes aside, the new one into its place
            calls = iter(range(1, 9))

            def failing(source: Path, target: Path) -> None:
                if next(calls) == number:  # noqa: B023
                    raise fault  # noqa: B023
                rename(source, target)

            monkeypatch.setattr(disk.os, "rename", failing)
            with pytest.raises(type(fault)):
                fill(folder, "new")
            monkeypatch.setattr(disk.os, "rename", rename)
            assert (folder / "x").read_text() == "old"
            assert list(tmp_path.iterdir()) == [folder]


def test_where_nothing_can_be_put_back_both_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    fill(folder, "old")
    rename, calls = os.rename, iter(range(9))

    def dying(source: Path, target: Path) -> None:
        if next(calls):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(disk.os, "rename", dying)
    with pytest.raises(OSError, match="could not be replaced") as caught:
        fill(folder, "new")
    left = left_beside(folder)
    assert {(p / "x").read_text() for p in left} == {"old", "new"}
    assert all(str(p) in str(caught.value) for p in left)


def test_a_folder_that_is_kept(tmp_path: Path) -> None:
    fill(tmp_path / "a", "first", keep=True)
    fill(tmp_path / "a", "second", keep=True)
    assert (tmp_path / "a" / "x").read_text() == "first"
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        fill(tmp_path / "file", "text", keep=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "file"]


@pytest.mark.parametrize("writer", ["replacing", "replacing_folder"])
def test_a_killed_program_leaves_what_was_there(writer: str, tmp_path: Path) -> None:
    place = tmp_path / "a"
    if writer == "replacing":
        write_whole(place, "old")
    else:
        fill(place, "old")
    killed = subprocess.run([sys.executable, "-c", DYING, writer, str(place)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    file, inside = (place, "") if writer == "replacing" else (place / "x", "x")
    assert file.read_text() == "old"
    (left,) = left_beside(place)
    assert (left / inside).read_text() == "half", "what was not finished lies beside it"
    if writer == "replacing":
        write_whole(place, "new")
    else:
        fill(place, "new")
    assert file.read_text() == "new"


#: Writes half of what it would, on the disk, and dies.
DYING = """
import os, signal, sys
from pathlib import Path
from objemb import disk
writer, place = sys.argv[1:]
with getattr(disk, writer)(Path(place)) as partial:
    file = partial if writer == "replacing" else partial / "x"
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_cannot_be_synced_is_not_published(
    fault: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.json"
    write_whole(file, "old")

    def failing(descriptor: int) -> None:
        raise fault

    monkeypatch.setattr(disk.os, "fsync", failing)
    with pytest.raises(type(fault)) as caught:
        write_whole(file, "new")
    if isinstance(fault, OSError):
        assert caught.value.filename == str(file)  # type: ignore[attr-defined]
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_contents_are_on_the_disk_before_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that points to nothing yet is what a power cut makes of files that are renamed first."""
    steps: list[str] = []
    fsync, replace, rename = os.fsync, os.replace, os.rename
    kinds = {True: "sync folder", False: "sync file"}

    def synced(descriptor: int) -> None:
        steps.append(kinds[stat.S_ISDIR(os.fstat(descriptor).st_mode)])
        fsync(descriptor)

    monkeypatch.setattr(disk.os, "fsync", synced)
    monkeypatch.setattr(disk.os, "replace", lambda a, b: (steps.append("rename"), replace(a, b)))
    monkeypatch.setattr(disk.os, "rename", lambda a, b: (steps.append("rename"), rename(a, b)))
    write_whole(tmp_path / "x.json", "text")
    assert steps == ["sync file", "rename", "sync folder"]
    steps.clear()
    fill(tmp_path / "a", "text")
    assert steps == ["sync file", "sync folder", "rename", "sync folder"]


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "none")
