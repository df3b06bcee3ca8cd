from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objemb.weights.pickled_arrays import UnreadablePickleError, read_pickled_arrays

ARRAYS = {
    "c": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar": np.array(3),
    "big": np.arange(3, dtype=">i4"),
    "half": np.ones(2, np.float16),
    "empty": np.zeros((0, 4)),
    "truth": np.array([True, False]),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "foreign.pkl"


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_plain_values(file: Path, protocol: int) -> None:
    plain = {"text": "é", "list": [1, (2.5, None)], "bytes": b"\xff", "number": np.float32(2.5), "true": True}
    file.write_bytes(pickle.dumps({"model": OrderedDict(ARRAYS), **plain}, protocol))
    found = read_pickled_arrays(file)
    assert {k: found[k] for k in plain} == plain
    for name, array in ARRAYS.items():
        assert found["model"][name].dtype == array.dtype
        assert np.array_equal(found["model"][name], array)
        found["model"][name][...] = 0  # they may be written to


def test_texts_of_python_2(file: Path) -> None:
    file.write_bytes(b"\x80\x02}U\x03\xe9abK\x01s.")
    assert read_pickled_arrays(file) == {"éab": 1}


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, ("was-run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Hostile(), r"posix.mkdir, which would have to be executed"),
        ({"a": np.array([Hostile()], dtype=object)}, "found "),
        (np.array(["text"]), "expected an array of numbers"),
        (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]), "found "),
        (len, r"builtins.len, which would have to be executed"),  # Ray replaces some others, such as print
        (Path("x"), "which would have to be executed"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_nothing_else_is_read(
    file: Path, content: Any, message: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    file.write_bytes(pickle.dumps(content, protocol).replace(b"__builtin__", b"builtins"))
    with pytest.raises(UnreadablePickleError, match=message):
        read_pickled_arrays(file)
    assert not Path("was-run").exists()


def test_damage(file: Path) -> None:
    whole = pickle.dumps(ARRAYS)
    for content in (b"", b"nonsense", whole[:-20], whole[:40] + b"\x00" * 20 + whole[60:]):
        file.write_bytes(content)
        with pytest.raises(UnreadablePickleError, match=r"foreign.pkl: expected a pickle of plain values"):
            read_pickled_arrays(file)
    with pytest.raises(FileNotFoundError):
        read_pickled_arrays(file.with_name("nowhere.pkl"))


def test_a_list_within_itself(file: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    file.write_bytes(pickle.dumps(endless))
    with pytest.raises(UnreadablePickleError, match="expected at most 50000000 values"):
        read_pickled_arrays(file)


def doubled(times: int) -> bytes:
    """A list of the same list twice, and so on: ``2 ** times`` values at the end, in a few bytes."""
    return b"(l" + b"".join(b"q%c(h%ch%cl" % (n, n, n) for n in range(times)) + b"."


def test_what_is_there_several_times_stays_one_object(file: Path) -> None:
    shared = [1, np.arange(2)]
    file.write_bytes(pickle.dumps({"a": shared, "b": (shared, [shared])}))
    found = read_pickled_arrays(file)
    assert found["a"] is found["b"][0] is found["b"][1][0]
    file.write_bytes(doubled(20))
    value = read_pickled_arrays(file)
    for _ in range(20):
        assert value[0] is value[1]
        value = value[0]
    assert value == []


@pytest.mark.parametrize(
    "content",
    [
        doubled(60),
        b"]q\x00h\x00a.",  # a list that holds itself
        b"}q\x00X\x01\x00\x00\x00ah\x00s.",
        b"N" + b"r\xff\xff\xff\x7f" + b"\x93.",  # a memo of the number 2**31 - 1, then damage
        b"(" * 9999 + b"t" * 9999 + b".",
    ],
    ids=["doubled", "a list in itself", "a dict in itself", "a high memo", "deep"],
)
def test_bombs_end_in_an_error(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(UnreadablePickleError):
        read_pickled_arrays(file)


def test_memos_of_high_numbers_take_no_memory(file: Path) -> None:
    file.write_bytes(b"K\x05" + b"r\xff\xff\xff\x7f" + b"j\xff\xff\xff\x7f" + b"\x86.")
    assert read_pickled_arrays(file) == (5, 5)
