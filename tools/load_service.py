"""Load a running service with a real client, and report rates, latencies, failures and growth.

    objemb serve INDEX --port 8000 --writable &
    python tools/load_service.py http://127.0.0.1:8000 PHOTO... --box 40,60,180,220 --clients 1 8 64
    python tools/load_service.py http://127.0.0.1:8000 PHOTO... --mixed --clients 32 --seconds 600 --pid PID
    python tools/load_service.py http://127.0.0.1:8000 PHOTO... --beside INDEX --threads 1 --pid PID

There are as many connections as clients; each client sends its next request when the last one is answered. ``503`` with
``Retry-After`` is counted, and its client waits for one to two times as long as it says; anything else but 2xx is a
failure, and so is a connection that breaks. With ``--mixed``, one request in five adds an image. ``--pid`` names the
process of the service: its memory and descriptors, and those of its decoders, are read from ``/proc`` at the start of
each fifth of the time.

``--beside`` measures what HTTP adds instead: each search is made by one client and by Python in this process, in turn.
Times of a busy machine are mostly those of waiting for a core; with ``--pid``, processor time is reported as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

#: Images that a mixed run adds, again and again.
WRITTEN = 200
#: What separates the parts of forms: no photo has it.
BOUNDARY = "objemb-load-ab4d5f0e2c7b4e8f"
#: Seconds that an answer may take.
SECONDS = 60.0
#: One request in so many is a change in a mixed run.
CHANGE_IN = 5


@dataclass(frozen=True)
class Answer:
    """An answer of the service; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass
class Tally:
    """What came of the requests of a run."""

    seconds: list[float] = field(default_factory=list)
    busy: int = 0
    failures: list[str] = field(default_factory=list)


def query_of(args: argparse.Namespace) -> str:
    return json.dumps({"boxes": [args.box] if args.box else "whole", "k": args.k})


class Connection:
    """A connection that is kept, with as little work for each request as may be: client and service share a machine.

    Args:
        url: ``http://HOST:PORT`` of the service.
        headers: Sent with each request.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        address = urlsplit(url)
        if address.scheme != "http" or address.hostname is None:
            raise ValueError(f"url: expected http://HOST:PORT, found {url!r}")
        self._address = address.hostname, address.port or 80
        lines = [f"Host: {address.netloc}", *(f"{name}: {value}" for name, value in headers.items())]
        self._head = "".join(f"{line}\r\n" for line in lines).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: str, form: bytes) -> Answer:
        """The answer to a request such as ``POST /v1/search`` with a form.

        Raises:
            OSError, EOFError, TimeoutError: The connection is broken; the next request has a new one.
        """
        try:
            async with asyncio.timeout(SECONDS):
                return await self._exchange(request, form)
        except BaseException:
            await self.close()
            raise

    async def _exchange(self, request: str, form: bytes) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(form)}\r\n\r\n"
        writer.write(f"{request} HTTP/1.1\r\n".encode() + self._head + kind.encode() + form)
        await writer.drain()
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            await self.close()
        return Answer(int(status.split()[1]), headers, content)

    async def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def form_of(photo: bytes, query: str | None) -> bytes:
    """The form of a request with a photo, and a query unless it is an image that is added."""
    parts = [(b'name="photo"; filename="photo.jpg"', photo)]
    parts += [] if query is None else [(b'name="query"', query.encode())]
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode()
    return b"".join(head + name + b"\r\n\r\n" + content + b"\r\n" for name, content in parts) + (
        f"--{BOUNDARY}--\r\n".encode()
    )


async def client(
    connection: Connection, args: argparse.Namespace, contents: list[bytes], end: float, tally: Tally, number: int
) -> None:
    choose, query = random.Random(number), query_of(args)
    searches = [form_of(content, query) for content in contents]
    additions = [form_of(content, None) for content in contents] if args.mixed else []
    while True:
        if args.mixed and choose.randrange(CHANGE_IN) == 0:
            request = connection.ask(f"PUT /v1/images/load-{choose.randrange(WRITTEN)}", choose.choice(additions))
        else:
            request = connection.ask("POST /v1/search", choose.choice(searches))
        wait = await counted(request, tally)
        if time.monotonic() + wait >= end:
            await connection.close()
            return
        await asyncio.sleep(wait * (1 + choose.random()))


async def counted(request: Awaitable[Answer], tally: Tally) -> float:
    """Count an answer; the seconds after which the client may come again."""
    begun = time.monotonic()
    try:
        answer = await request
    except (OSError, EOFError, TimeoutError) as error:
        tally.failures.append(f"{type(error).__name__}: {error}")
        return 0.0
    if answer.status == 503 and "retry-after" in answer.headers:
        tally.busy += 1
        return float(answer.headers["retry-after"])
    if 200 <= answer.status < 300:
        tally.seconds.append(time.monotonic() - begun)
    else:
        tally.failures.append(f"{answer.status}: {answer.content[:200].decode(errors='replace')}")
    return 0.0


async def watch(pid: int, seconds: float) -> None:
    """Print memory and descriptors of the service and of its decoders."""
    for _ in range(6):
        pids = [pid, *children(pid)]
        memory = sum(resident(one) for one in pids) / 2**20
        descriptors = sum(len(os.listdir(f"/proc/{one}/fd")) for one in pids)
        print(f"  {memory:.0f} MiB in {len(pids)} processes, {descriptors} descriptors", flush=True)
        await asyncio.sleep(seconds / 5)


def children(pid: int) -> list[int]:
    """Processes that any thread of a process has started."""
    return [int(n) for file in Path(f"/proc/{pid}/task").glob("*/children") for n in file.read_text().split()]


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):  # it ended meanwhile
        return 0


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def headers_of(args: argparse.Namespace) -> dict[str, str]:
    return {"Authorization": f"Bearer {args.token}"} if args.token else {}


def overhead(args: argparse.Namespace) -> int:
    """Print the times of searches by HTTP beside those of the same ones by Python; how many answers differ."""
    import httpx

    from objemb.search.opening import open_retrieval
    from objemb.text import json_text

    retrieval, query = open_retrieval(args.beside, args.model, threads=args.threads), query_of(args)
    boxes = [args.box] if args.box else "whole"
    contents = [path.read_bytes() for path in args.photos]
    pids = [args.pid, *children(args.pid)] if args.pid else []
    times: dict[str, list[float]] = {"Python": [], "HTTP": []}
    processor = dict.fromkeys(times, 0.0)
    different, end = 0, time.monotonic() + args.seconds
    with httpx.Client(base_url=args.url, timeout=60, headers=headers_of(args)) as session:

        def by_http(content: bytes) -> bytes:
            answer = session.post("/v1/search", files={"photo": ("photo.jpg", content)}, data={"query": query})
            return answer.raise_for_status().content

        def by_python(content: bytes) -> bytes:
            found: Any = retrieval.search(content, boxes, k=args.k).to_json()
            found["query"]["image"] = "photo.jpg"
            return (json_text(found) + "\n").encode()

        ways: dict[str, Callable[[bytes], bytes]] = {"Python": by_python, "HTTP": by_http}
        while time.monotonic() < end or len(times["HTTP"]) <= len(contents):
            for content in contents:
                answers = set()
                for name, way in ways.items():
                    before, begun = seconds_of(pids), time.monotonic()
                    spent = time.process_time()
                    answers.add(way(content))
                    times[name].append(time.monotonic() - begun)
                    processor[name] += time.process_time() - spent if name == "Python" else seconds_of(pids) - before
                different += len(answers) > 1
    for name, values in times.items():
        ordered = [1000 * quantile(values[len(contents) :], share) for share in (0.1, 0.5, 0.9)]
        print(f"{name}: p10 {ordered[0]:.1f} ms, p50 {ordered[1]:.1f} ms, p90 {ordered[2]:.1f} ms", end="")
        print(f", processor {1000 * processor[name] / len(values):.1f} ms" if pids else "")
    more = [1000 * (http - python) for python, http in zip(*times.values(), strict=True)][len(contents) :]
    print(
        f"HTTP adds {statistics.median(more):.1f} ms (median of {len(more)} pairs), {different} answers differ",
        flush=True,
    )
    return different


def seconds_of(pids: list[int]) -> float:
    """Processor time of processes, in seconds."""
    ticks = 0
    for pid in pids:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(facts[11]) + int(facts[12])  # of the user and of the system
    return ticks / os.sysconf("SC_CLK_TCK")


async def run(args: argparse.Namespace, clients: int) -> int:
    tally, begun = Tally(), time.monotonic()
    end = begun + args.seconds
    watcher = asyncio.create_task(watch(args.pid, args.seconds)) if args.pid else None
    headers, contents = headers_of(args), [path.read_bytes() for path in args.photos]
    connections = [Connection(args.url, headers) for _ in range(clients)]
    await asyncio.gather(*(client(one, args, contents, end, tally, n) for n, one in enumerate(connections)))
    took = time.monotonic() - begun
    if watcher is not None:
        watcher.cancel()
    times = tally.seconds or [float("nan")]
    latencies = ", ".join(f"p{round(100 * s)} {1000 * quantile(times, s):.0f} ms" for s in (0.5, 0.95, 0.99))
    rate = len(tally.seconds) / took
    print(
        f"{clients} clients: {rate:.1f} a second, {latencies}, {tally.busy} told to come again, "
        f"{len(tally.failures)} failed",
        flush=True,
    )
    for failure in sorted(set(tally.failures))[:5]:
        print(f"  {failure}")
    return len(tally.failures)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument(
        "--box", type=lambda text: [float(v) for v in text.split(",")], help="X1,Y1,X2,Y2 in each photo"
    )
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--mixed", action="store_true", help="one request in five adds an image")
    parser.add_argument("--token", default=os.environ.get("OBJEMB_TOKEN"))
    parser.add_argument("--pid", type=int, help="process of the service, to watch")
    parser.add_argument("--beside", metavar="INDEX", help="compare with Python: the index that is served")
    parser.add_argument("--model", type=Path, help="with --beside: the model that is served")
    parser.add_argument("--threads", type=int, help="with --beside: those of the service")
    args = parser.parse_args(argv)
    if args.beside:
        return 1 if overhead(args) else 0
    return 1 if sum(asyncio.run(run(args, clients)) for clients in args.clients) else 0


if __name__ == "__main__":
    sys.exit(main())
