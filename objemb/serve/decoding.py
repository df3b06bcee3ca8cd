"""Decodes photos in processes of their own, with a limit of processor time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, BinaryIO, TypeVar

import numpy as np

import objemb
from objemb.images.decode import UnreadableImageError
from objemb.images.inputs import EncodedPhoto
from objemb.serve.decoder import receive, send
from objemb.serve.limits import Limits
from objemb.serve.problems import not_in_time
from objemb.serve.tokens import TOKEN_VARIABLE
from objemb.structures import Photo

T = TypeVar("T")

#: Where objemb lies: decoders start without the current folder on their path.
PACKAGES = str(Path(objemb.__file__).parents[1])
#: Processes that may try a photo: one may have been ended from outside.
ATTEMPTS = 2
#: Seconds in which a process has to start.
START_SECONDS = 60.0
#: Seconds between looks for processes that take too long. One thread looks: a timer for each photo would be a thread to
#: start, and on a busy machine to wait for.
WATCH_SECONDS = 0.1
#: Bytes that a pipe to a decoder holds, where the system can be told.
PIPE_BYTES = 2**20
#: How a process ends that has used up its processor time; None where the system does not measure it.
OUT_OF_TIME = None if sys.platform == "win32" else -signal.SIGPROF
#: How a process ends that was killed, for instance because the machine had no memory left.
KILLED = None if sys.platform == "win32" else -signal.SIGKILL


class OutOfTimeError(Exception):
    """A photo takes more processor time than it may."""


class Decoders:
    """Processes that decode photos, each one photo at a time.

    A process that takes too long or crashes is replaced by another one. The photo is reported as unreadable if the
    process used up its processor time or crashed twice, but not if it had no processor to run on.

    Args:
        count: Number of processes.
        limits: ``pixels``, ``decode_seconds`` and ``request_seconds`` of these.

    Attributes:
        threads: Threads that have photos decoded and use them, as many as there are processes.
    """

    def __init__(self, count: int, limits: Limits) -> None:
        self._limits = limits
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="objemb-decode")
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()
        self._count = count
        self._processes: set[_Process] = set()
        for _ in range(count):
            self._idle.put(self._start())
        self._closed = Event()
        self._watch = Thread(target=self._end_late, name="objemb-watch-decoders", daemon=True)
        self._watch.start()

    def pixels(self, content: bytes, name: str, side: int | None, part: float | None) -> Photo:
        """Decode a photo as :func:`objemb.images.decode.read_photo` does.

        Raises:
            UnreadableImageError: It cannot be decoded, or takes too much processor time.
            Problem: The decoder had too little processor time meanwhile, or could not be started.
        """
        about, pixels = self._ask(content, name, side, part, thumbnail=False)
        decoded = np.frombuffer(pixels, np.uint8).reshape(about["shape"])
        height, width = about["size"]
        return Photo(name, decoded, (height, width), orientation=about["orientation"])

    def thumbnail(self, content: bytes, name: str, side: int) -> bytes:
        """A JPEG file of at most ``side`` pixels of a photo. Raises as :meth:`pixels`."""
        return self._ask(content, name, side, None, thumbnail=True)[1]

    def close(self) -> None:
        """End the processes once the photos that are being decoded are done."""
        self.threads.shutdown(cancel_futures=True)
        for _ in range(self._count):
            process = self._idle.get()
            if process is not None:
                process.end()
        self._closed.set()
        self._watch.join()

    def _start(self) -> _Process:
        process = _Process(self._limits.pixels)
        self._processes.add(process)
        return process

    def _end_late(self) -> None:
        while not self._closed.wait(WATCH_SECONDS):
            for process in tuple(self._processes):
                process.end_if_late()

    def _ask(
        self, content: bytes, name: str, side: int | None, part: float | None, *, thumbnail: bool
    ) -> tuple[dict[str, Any], bytes]:
        limits = self._limits
        request: dict[str, object] = {"side": side, "part": part, "thumbnail": thumbnail}
        request |= {"max_pixels": limits.pixels, "seconds": limits.decode_seconds}
        for attempt in range(ATTEMPTS):
            process = self._idle.get() or self._start()
            kept: _Process | None = None
            try:
                about, answer = process.ask(request, content, limits.request_seconds)
                kept = process
                break
            except OutOfTimeError:
                seconds = limits.decode_seconds
                raise UnreadableImageError(f"decoding takes more than {seconds:g} s of processor time", name) from None
            except (EOFError, OSError):
                if attempt == ATTEMPTS - 1 and process.crashed():
                    raise UnreadableImageError("the decoder crashed, or had not enough memory", name) from None
                if attempt == ATTEMPTS - 1:
                    raise not_in_time("decoder", "a process that starts and is not ended") from None
            finally:
                if kept is None:
                    self._processes.discard(process)
                    process.end()
                self._idle.put(kept)
        if "refused" in about:
            raise UnreadableImageError(about["refused"], name)
        return about, answer


class UploadedPhoto(EncodedPhoto):
    """A photo that is decoded by :class:`Decoders`; what was decoded last is kept.

    Args:
        content: The encoded photo.
        name: Its id in results.
        decoders: The processes.
    """

    def __init__(self, content: bytes, name: str, decoders: Decoders) -> None:
        self.name = name
        self._content = content
        self._decoders = decoders
        self._lock = Lock()
        self._kept: tuple[tuple[int | None, float | None], Photo] | None = None

    def decoded(self, side: int | None, part: float | None, max_pixels: int) -> Photo:
        """See :meth:`EncodedPhoto.decoded`; the limit of pixels is that of the processes."""
        del max_pixels
        with self._lock:
            if self._kept is None or self._kept[0] != (side, part):
                self._kept = (side, part), self._decoders.pixels(self._content, self.name, side, part)
            return self._kept[1]


class _Process:
    def __init__(self, max_pixels: int) -> None:
        command = [sys.executable, "-P", "-m", "objemb.serve.decoder", str(max_pixels)]
        # one photo at a time, so threads of libraries would only take address space
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([PACKAGES, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment.pop(TOKEN_VARIABLE, None)
        # a session of its own, so that Ctrl-C lets the service finish what it has accepted
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: BinaryIO = self._process.stdin  # type: ignore[assignment]  # IO[bytes] is a BinaryIO
        self._answers: BinaryIO = self._process.stdout  # type: ignore[assignment]  # likewise
        self._is_ready = False
        self._lock = Lock()
        self._until: float | None = None
        self._is_late = False
        self._widen()

    def ask(self, request: dict[str, object], content: bytes, seconds: float) -> tuple[dict[str, Any], bytes]:
        """An answer.

        Raises:
            OutOfTimeError: The process has used up the processor time of the request.
            Problem: It has not answered in time, but has not used up its processor time either.
            EOFError, OSError: It ended; see :meth:`crashed`.
        """
        if not self._is_ready:
            self._in_time(START_SECONDS, lambda: receive(self._answers))
            self._is_ready = True

        def exchange() -> tuple[dict[str, Any], bytes]:
            send(self._requests, request, content)
            return receive(self._answers)

        return self._in_time(seconds, exchange)

    def crashed(self) -> bool:
        """Whether a process that has ended did so by itself, over a photo: the system may have killed it."""
        return self._is_ready and self._process.returncode != KILLED

    def end_if_late(self) -> None:
        """End a process that has not answered in time."""
        with self._lock:
            if self._until is not None and time.monotonic() > self._until:
                self._until, self._is_late = None, True
                self._process.kill()

    def _in_time(self, seconds: float, work: Callable[[], T]) -> T:
        with self._lock:
            self._until = time.monotonic() + seconds
        try:
            return work()
        except (EOFError, OSError):
            if self._is_late:
                raise not_in_time("decoder", f"an answer within {seconds:g} s") from None
            if self._process.wait() == OUT_OF_TIME:
                raise OutOfTimeError from None
            raise
        finally:
            with self._lock:
                self._until = None

    def end(self) -> None:
        """End the process at once."""
        self._process.kill()
        for stream in (self._requests, self._answers):
            with contextlib.suppress(OSError):  # what was not sent yet is lost
                stream.close()
        self._process.wait()

    def _widen(self) -> None:
        """Let a photo pass through the pipes in few pieces."""
        if sys.platform != "linux":
            return
        import fcntl

        for stream in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
