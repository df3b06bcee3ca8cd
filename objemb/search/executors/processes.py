"""Tasks in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext

from objemb import checks
from objemb.registry import plugin
from objemb.search.executors.base import Executor, Start, packed_error, raise_packed
from objemb.threads import usable_threads

#: Processes that may die of a task before it is left without a result.
ATTEMPTS = 2


@plugin
class Processes(Executor):
    """Processes that each hold a worker; one that dies is replaced.

    Args:
        count: Number of processes.
    """

    expected = "processes=4"

    def __init__(self, *, count: int = 2) -> None:
        self.count = checks.whole("count", count)
        self.threads = max(1, usable_threads() // self.count)

    @classmethod
    def at(cls, place: str) -> Processes:
        """``processes=N``."""
        if not place.isdecimal() or int(place) < 1:
            raise ValueError(f"--on: expected a number of processes such as {cls.expected}, found {place!r}")
        return cls(count=int(place))

    def map(self, start: Start, tasks: Iterable[bytes], *, threads: int, accelerated: bool) -> Iterator[bytes]:
        """See :meth:`Executor.map`."""
        del threads, accelerated  # workers choose their device by the number of their process
        context = multiprocessing.get_context("spawn")  # a forked child may inherit locks held by other threads
        source, again = iter(tasks), deque[bytes]()
        deaths: Counter[bytes] = Counter()
        processes: dict[Connection, _Process] = {}
        try:
            free = list(range(self.count))
            while True:
                while free and (task := again.popleft() if again else next(source, None)) is not None:
                    process = _Process(context, start, free.pop(0))
                    processes[process.connection] = process
                    process.give(task)
                busy = [p.connection for p in processes.values() if p.task is not None]
                if not busy:
                    return
                for connection in wait(busy):
                    assert isinstance(connection, Connection)
                    process = processes[connection]
                    task = process.task
                    assert task is not None
                    try:
                        error, result = connection.recv()
                    except (EOFError, OSError):
                        process.end()
                        del processes[connection]
                        free.append(process.number)
                        deaths[task] += 1
                        if deaths[task] < ATTEMPTS:
                            again.append(task)
                        continue
                    if error is not None:
                        raise_packed(*error)
                    process.task = None
                    yield result
                    following = again.popleft() if again else next(source, None)
                    if following is not None:
                        process.give(following)
        finally:
            for process in processes.values():
                process.end()


class _Process:
    """A process with the task that it has at present.

    Attributes:
        number: Its number, from 0, which its replacement inherits.
        task: The task, or None.
    """

    def __init__(self, context: SpawnContext, start: Start, number: int) -> None:
        self.number = number
        self.task: bytes | None = None
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, start, number), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the connection

    def give(self, task: bytes) -> None:
        """Send a task; if the process is dead, that shows when its result is awaited."""
        self.task = task
        with contextlib.suppress(OSError):
            self.connection.send_bytes(task)

    def end(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _work(connection: Connection, start: Start, number: int) -> None:
    """Serve tasks until the other side ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            worker = start(number)
        except Exception as error:
            connection.send((packed_error(error), b""))
            return
        while True:
            task = connection.recv_bytes()
            answer: tuple[tuple[str, str] | None, bytes]
            try:
                answer = None, worker(task)
            except Exception as error:
                answer = packed_error(error), b""
            connection.send(answer)
