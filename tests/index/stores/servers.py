"""Servers for the tests of stores: started once in a test process, or those that variables of the environment name."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import patch

#: Names of users that a server can run as where the tests run as root, which PostgreSQL refuses.
UNPRIVILEGED = ("postgres", "nobody")


class Postgres:
    """A PostgreSQL server with pgvector on a Unix socket, of the binaries that the package pgserver carries.

    Args:
        place: The folder of its data, new or that of an earlier server, with a short path, as that of a socket has to
            be.
    """

    def __init__(self, place: Path) -> None:
        spec = importlib.util.find_spec("pgserver")
        assert spec is not None, "the package pgserver is not installed"
        assert spec.origin is not None
        self._binaries = Path(spec.origin).parent / "pginstall" / "bin"
        self.place = place
        self._data = place / "data"
        self._user = next((name for name in UNPRIVILEGED if _is_user(name)), None) if os.getuid() == 0 else None
        place.mkdir(exist_ok=True)
        if self._user is not None:
            shutil.chown(place, self._user)
            place.chmod(0o755)
        if not self._data.exists():
            self._run("initdb", "-D", str(self._data), "-U", "objemb", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        self.start()

    def address(self, table: str) -> str:
        return f"postgresql:///postgres?host={self.place}&user=objemb&table={table}"

    def start(self) -> None:
        memory = "-c shared_buffers=64MB -c maintenance_work_mem=2GB"
        options = f"-k {self.place} -c listen_addresses='' {memory}"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self.place / "log"), "-o", options, "start")

    def stop(self, how: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", how, "stop")

    def kill(self) -> None:
        """Kill the server and its processes as a loss of power would, at least for them."""
        first = (self._data / "postmaster.pid").read_text().splitlines()[0]
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        for process in (first, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        while not all(map(_is_gone, (first, *children))):
            time.sleep(0.01)
        # in a container whose first process collects no others, the number of a dead server stays taken
        for lock in (self._data / "postmaster.pid", self.place / ".s.PGSQL.5432.lock"):
            lock.unlink(missing_ok=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        if self._user is not None:
            record = pwd.getpwnam(self._user)
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, cwd=self.place, user=record.pw_uid,
                group=record.pw_gid, extra_groups=[], stdin=subprocess.DEVNULL,
            )  # fmt: skip
        else:
            done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            log = self.place / "log"
            raise RuntimeError(f"{program}: {done.stderr}{log.read_text() if log.exists() else ''}")


def _is_gone(process: str) -> bool:
    """Whether a process has ended; it may still be listed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@functools.cache
def postgres() -> Postgres | None:
    """The server of this process, None where the package is missing or its binaries cannot be run."""
    if importlib.util.find_spec("pgserver") is None or importlib.util.find_spec("psycopg") is None:
        return None
    place = Path(tempfile.mkdtemp(prefix="objpg", dir="/tmp"))
    server = Postgres(place)

    def end() -> None:
        server.stop("immediate")
        shutil.rmtree(place, ignore_errors=True)

    atexit.register(end)
    return server


def local_addresses(names: Iterable[str], place: Path, stack: contextlib.ExitStack) -> dict[str, str]:
    """Where indexes lie in a folder, by store, ``folder`` included, while what serves them runs in this process or
    beside it: until the stack is closed. Those of an earlier call are there again.

    Args:
        names: Stores. Qdrant is Qdrant Edge, the core of its server, in this process.
        place: The folder.
        stack: Ends the servers.
    """
    place.chmod(0o755)  # PostgreSQL may run as another user
    addresses = {"folder": f"{place}/folder", "lance": f"lance:{place}/lance", "qdrant": "qdrant://localhost/benchmark"}
    if "postgresql" in names:
        server = Postgres(place / "postgresql")
        stack.callback(server.stop)
        addresses["postgresql"] = server.address("benchmark")
    if "qdrant" in names:
        from tests.index.stores.edge import EdgeClient

        held = stack.enter_context(contextlib.closing(EdgeClient(place / "qdrant")))
        stack.enter_context(patch("objemb.index.stores.qdrant.connect", lambda address: held))
    return {name: addresses[name] for name in names}
