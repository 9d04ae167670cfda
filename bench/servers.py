"""Servers under test, all started alike: one uvicorn worker, access log off, on the first core; load on the second."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
SERVER_CORE = 0
LOAD_CORE = 1


@contextmanager
def served(
    application: str, env: Mapping[str, str] | None = None, *, core: int = SERVER_CORE, port: int = 0
) -> Iterator[str]:
    """The URL of `application` (module:name), as long as it is served."""
    with running(application, env, core=core, port=port) as (url, _):
        yield url


@contextmanager
def running(
    application: str, env: Mapping[str, str] | None = None, *, core: int = SERVER_CORE, port: int = 0
) -> Iterator[tuple[str, int]]:
    """The URL and the process id of `application`, as long as it is served."""
    uvicorn = [sys.executable, "-m", "uvicorn", application, "--host", "127.0.0.1", "--no-access-log"]
    command = [*uvicorn, "--port", str(port)]
    server = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=pinned(core),
    )
    try:
        yield _url(server), server.pid
    finally:
        server.terminate()
        server.wait()


def _url(server: "subprocess.Popen[str]") -> str:
    assert server.stderr is not None
    printed = []
    for line in server.stderr:
        printed.append(line)
        if "Uvicorn running on " in line:
            # Somebody must go on reading, or the server blocks on a full pipe.
            threading.Thread(target=server.stderr.read, daemon=True).start()
            return line.split("Uvicorn running on ")[1].split()[0]
    raise RuntimeError(f"the server did not start:\n{''.join(printed)}")


def pinned(core: int) -> Callable[[], None]:
    """What a child process runs first, to stay on one core."""
    return lambda: os.sched_setaffinity(0, {core})


def wrk(*options: str, script: str, url: str) -> str:
    """What wrk prints of a load made by one of the scripts here.

    Raises:
        RuntimeError: a request was not answered with 2xx.
    """
    command = ["wrk", *options, "-s", str(ROOT / "bench" / f"{script}.lua"), url]
    printed = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=pinned(LOAD_CORE)
    ).stdout
    if "Non-2xx" in printed or "Socket errors" in printed:
        raise RuntimeError(f"not every request was answered well:\n{printed}")
    return printed
