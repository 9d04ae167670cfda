"""A real PostgreSQL of the tests' own, on a port of its own, in a folder of its own.

It refuses to be run by root, so there it runs as the user that Debian's package made for it.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.processes import PATIENCE_SECONDS, Process

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "wal_level": "replica",
    # Half of what it takes to stop is waiting for these.
    "checkpoint_timeout": "1h",
}


def require_postgres() -> None:
    """Skip, and say what is missing; in CI, fail."""
    if not BINARIES:
        reason = "needs PostgreSQL (on Debian: apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


class Postgres:
    """A server with databases for tests. Running when constructed."""

    def __init__(
        self, port: int | None = None, *, copy_of: "Postgres | None" = None, certificate: Path | None = None
    ) -> None:
        """`certificate` is a file with a key and its certificate, for TLS."""
        self.folder = Path(tempfile.mkdtemp(prefix="perf-tracer-postgres-"))
        self.port = port or _free_port()
        shutil.chown(self.folder, _account())
        self._data = self.folder / "data"
        if copy_of is None:
            self._run("initdb", "-D", self._data, "-U", "tests", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N")
        else:
            # A standby: it follows what it is a copy of until it is promoted.
            self._run("pg_basebackup", "-D", self._data, "-R", "-N", "-c", "fast", "-d", copy_of.url("postgres"))
        self._settings = {**SETTINGS, "port": str(self.port)}
        if certificate is not None:
            self._settings |= self._tls(certificate)
        self._databases = 0
        self.start()

    def start(self) -> None:
        """Ready for connections when this returns."""
        settings = [f"-c{name}={value}" for name, value in self._settings.items()]
        self._server = Process([BINARIES[-1] / "postgres", "-D", str(self._data), *settings], user=_account())
        self._server.wait_for("database system is ready to accept")
        self._running = True

    def stop(self) -> None:
        """As an operator would, in a hurry: connections are cut, what is committed is written."""
        self._run("pg_ctl", "stop", "-D", self._data, "-m", "fast", "-w")
        self._server.stop()
        self._running = False

    def kill(self) -> None:
        """As a power cut would. It is gone when this returns, with every process of it."""
        self._server.kill()
        self._running = False

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Meanwhile, nobody who connects is answered; who is connected already does not notice."""
        os.kill(self._server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._server.pid, signal.SIGCONT)

    def remove(self) -> None:
        if self._running:
            self._run("pg_ctl", "stop", "-D", self._data, "-m", "immediate", "-w")
            self._server.stop()
        shutil.rmtree(self.folder)

    def set(self, name: str, value: str) -> None:
        """Change a setting while it runs."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Make a standby the primary."""
        self._run("pg_ctl", "promote", "-D", self._data, "-w")

    def follow(self, primary: "Postgres") -> None:
        """Start what was stopped as a standby of the one that has been promoted."""
        (self._data / "standby.signal").touch()
        self._settings["primary_conninfo"] = f"host=127.0.0.1 port={primary.port} user=tests"
        self.start()

    def cut_connections(self) -> int:
        """End every connection but this one; how many there were."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            cut = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchone()
        assert cut is not None
        return int(cut[0])

    @property
    def pid(self) -> int:
        return self._server.pid

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://tests@127.0.0.1:{self.port}/{database}"

    def _tls(self, certificate: Path) -> dict[str, str]:
        own = self.folder / "server.pem"
        shutil.copy(certificate, own)
        own.chmod(0o600)
        shutil.chown(own, _account())
        return {"ssl": "on", "ssl_cert_file": str(own), "ssl_key_file": str(own)}

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [str(BINARIES[-1] / program), *(str(part) for part in arguments)]
        done = subprocess.run(
            command,
            user=_account(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout}"


def _account() -> str:
    """Whom the server runs as."""
    return "postgres" if os.geteuid() == 0 else getpass.getuser()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
