"""Real processes for tests: started, waited for by what they print, ended by their own id."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 60.0
"""How long a test waits for something that normally takes far less, before it fails."""


class Process:
    """A child process whose output is kept, and can be waited for."""

    def __init__(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, *, user: str | None = None
    ) -> None:
        """`user` is whom it runs as, where that is somebody else."""
        self.command = [str(part) for part in command]
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._popen = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            user=user,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        """All that was printed so far."""
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, pattern: str, seconds: float = PATIENCE_SECONDS) -> re.Match[str]:
        """The first match of `pattern` in the output, as soon as it is there."""
        found: list[re.Match[str]] = []

        def is_there() -> bool:
            match = re.search(pattern, "".join(self._lines))
            if match:
                found.append(match)
            return match is not None or self._ended

        with self._changed:
            self._changed.wait_for(is_there, timeout=seconds)
        if not found:
            self.kill()
            raise AssertionError(f"{self.command} did not print {pattern!r}, but:\n{self.output}")
        return found[0]

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL, no chance to tidy up."""
        self._popen.kill()
        self._wait()

    def stop(self, seconds: float = PATIENCE_SECONDS) -> int:
        """End it politely; its exit status."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._wait()
        return self._popen.returncode

    def _wait(self) -> None:
        self._popen.wait()
        self._reader.join()
        if self._popen.stdout:
            self._popen.stdout.close()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Gateway(Process):
    """The gateway under uvicorn, on a port of its own, with a database in `folder`, unless `env` says another. Ready
    when constructed."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None, port: int = 0) -> None:
        uvicorn = [sys.executable, "-m", "uvicorn", "main:app", "--host", "127.0.0.1", "--port", str(port)]
        database = {"PERF_TRACER_DATABASE_URL": f"sqlite:///{folder}/perf-tracer.db"}
        super().__init__(uvicorn, {**database, "OTEL_TRACES_EXPORTER": "none", **(env or {})})
        self.url = self.wait_for(r"Uvicorn running on (http://\S+)").group(1)
