from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest

from objemb.serve import batching
from objemb.serve.batching import Batcher, Room
from objemb.serve.limits import Limits
from objemb.serve.problems import Problem
from objemb.serve.service import Options
from tests.serve.conftest import Served, encoded, picture, serving


class Held:
    """A computation that waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(jobs))
        self.begun.set()
        assert self.go.wait(20)
        return [ValueError(f"job {job}") if job < 0 else job * 10 for job in jobs]


def test_what_comes_meanwhile_is_computed_together() -> None:
    held, sizes = Held(), list[int]()
    batcher: Batcher[int, int] = Batcher(held, "test", most=3, window=0.004, on_batch=sizes.append)
    first = batcher.submit(1)
    assert held.begun.wait(20)
    others = [batcher.submit(n) for n in (2, 3, -4, 5)]
    held.go.set()
    assert first.result(20) == 10
    assert [f.result(20) for f in (others[0], others[1], others[3])] == [20, 30, 50]
    with pytest.raises(ValueError, match="job -4"):
        others[2].result(20)
    batcher.close()
    assert held.batches == [[1], [2, 3, -4], [5]]
    assert sizes == [1, 3, 1]


def test_jobs_of_one_kind_are_computed_together() -> None:
    held = Held()
    batcher: Batcher[int, int] = Batcher(held, "test", most=3, window=0.004, kind=lambda job: job % 2)
    futures = [batcher.submit(0)]
    assert held.begun.wait(20)
    futures += [batcher.submit(n) for n in (1, 2, 3, 4, 5, 7)]
    held.go.set()
    assert [future.result(20) for future in futures] == [0, 10, 20, 30, 40, 50, 70]
    batcher.close()
    assert held.batches == [[0], [1, 3, 5], [2, 4], [7]]


def test_threads_that_are_idle_share_what_waits() -> None:
    both, sizes = threading.Barrier(2), list[int]()

    def run(jobs: Sequence[int]) -> list[int | Exception]:
        both.wait(20)  # each waits for the other
        return list(jobs)

    batcher: Batcher[int, int] = Batcher(run, "test", most=8, window=5, threads=2, on_batch=sizes.append)
    with batcher.announced():
        futures = [batcher.submit(n) for n in range(8)]
    assert [future.result(20) for future in futures] == list(range(8))
    batcher.close()
    assert sizes == [4, 4]


def test_clients_that_have_gone_and_a_batcher_that_is_closed() -> None:
    held = Held()
    batcher: Batcher[int, int] = Batcher(held, "test", most=16, window=0.004)
    first = batcher.submit(1)
    assert held.begun.wait(20)
    gone, left = batcher.submit(2), batcher.submit(3)
    assert gone.cancel()
    held.go.set()
    assert (first.result(20), left.result(20)) == (10, 30)
    with pytest.raises(CancelledError):
        gone.result(20)
    batcher.close()
    assert held.batches == [[1], [3]]
    with pytest.raises(Problem, match="found one that is stopping"):
        batcher.submit(5)


def test_requests_beyond_the_room_are_told_to_come_again() -> None:
    room = Room(Limits(queue=2))
    with room.taken(), room.taken():
        assert len(room) == 2
        with pytest.raises(Problem, match="expected at most 2 at a time") as raised, room.taken():
            raise AssertionError("not entered")
        assert (raised.value.status, raised.value.retry) == (503, 1)
    assert len(room) == 0
    with pytest.raises(ValueError, match="unreadable"), room.taken():
        raise ValueError("unreadable")
    with room.taken():
        assert len(room) == 1


def test_clients_of_a_slow_service_are_told_to_wait_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(batching, "monotonic", lambda: now)
    room, retries = Room(Limits(queue=1)), []
    for seconds in (0.1, 10.0, 1000.0):
        for _ in range(500):
            with room.taken():
                now += seconds
        with room.taken(), pytest.raises(Problem) as raised, room.taken():
            raise AssertionError("not entered")
        retries.append(raised.value.retry)
    assert retries == [1, 5, 30], "half of what a request takes"


def test_a_computation_that_fails_fails_its_batch_only() -> None:
    def run(jobs: Sequence[int]) -> list[int | Exception]:
        if 0 in jobs:
            raise RuntimeError("no memory")
        return list(jobs)

    batcher: Batcher[int, int] = Batcher(run, "test", most=16, window=0.004)
    with pytest.raises(RuntimeError, match="no memory"):
        batcher.submit(0).result(20)
    assert batcher.submit(7).result(20) == 7
    batcher.close()


def test_an_idle_thread_waits_for_what_was_announced() -> None:
    batches: list[int] = []
    batcher: Batcher[int, int] = Batcher(lambda jobs: list(jobs), "test", most=16, window=20, on_batch=batches.append)
    with batcher.announced():
        with batcher.announced():
            first = batcher.submit(1)
        second = batcher.submit(2)
    assert (first.result(10), second.result(10)) == (1, 2)
    assert batcher.submit(3).result(10) == 3, "nothing is announced, so nothing is waited for"
    batcher.close()
    assert sum(batches) == 3


def test_answers_do_not_depend_on_who_else_asks(shared_index: Path, photos: Path) -> None:
    photo = [encoded(picture(seed, (120, 100) if seed % 3 else (90, 140))) for seed in range(12)]
    queries = [
        {"boxes": [[5, 5, 40 + n, 60]], "k": 3 + n % 2, **({"where": "price > 2"} if n % 4 == 0 else {})}
        for n in range(12)
    ]
    queries[3] = {"boxes": [[5, 5, 4000, 60]]}  # a mistake among them
    queries[5] = {"where": "prize > 2"}
    queries[6] = {"exclude": ["0.png", "shelf/1.png"]}
    with serving(shared_index, Options(Limits(window=0.05), decoders=2)) as running:
        ask: Callable[[int], tuple[int, bytes]] = lambda n: answered(running, photo[n], json.dumps(queries[n]))  # noqa: E731
        alone = [ask(n) for n in range(12)]
        with ThreadPoolExecutor(12) as pool:
            together = list(pool.map(ask, [*range(12), *range(12)]))
        assert together == [*alone, *alone]
        assert [status for status, _ in alone] == [422 if n in (3, 5) else 200 for n in range(12)]
        lines = dict(l.rsplit(" ", 1) for l in running.client.get("/metrics").text.splitlines() if l[0] != "#")  # noqa: E741
        assert float(lines["objemb_batch_size_sum"]) > float(lines["objemb_batch_size_count"]), "some were together"


def answered(running: Served, photo: bytes, query: str) -> tuple[int, bytes]:
    answer = running.search(photo, query)
    return answer.status_code, answer.content
