"""A collector that is away for ten minutes of delivery's time, under load."""

import re
import socket
import tempfile
import threading
from pathlib import Path

import httpx

from bench.servers import LOAD_CORE, running, served, wrk

OUTAGE_SECONDS = 600
SPANS = 100_000
SPANS_A_TRACE = 4
CLOCK_SPEED = 20
CONNECTIONS = 8


def measure_outage() -> dict[str, float]:
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        env = {
            "PERF_TRACER_DATABASE_URL": f"sqlite:///{folder}/bench.db",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "BENCH_CLOCK_SPEED": str(CLOCK_SPEED),
        }
        seconds = OUTAGE_SECONDS // CLOCK_SPEED
        with running("bench.outage_app:app", env) as (url, pid):
            with served("bench.bare:collector", core=LOAD_CORE, port=port):
                _load(url, 2)
                _wait_until_delivered(url)
                idle = _resident_mib(pid)
                up_p99_ms, _ = _load(url, seconds)
                _wait_until_delivered(url)
            away_p99_ms, before = _load(url, seconds)
            spans = before // 5 * SPANS_A_TRACE
            while spans < SPANS:
                _, more = _load(url, 5)
                spans += more // 5 * SPANS_A_TRACE
            waiting = httpx.get(f"{url}/api/delivery").json()["backlog_spans"]
            with served("bench.bare:collector", core=LOAD_CORE, port=port):
                _wait_until_delivered(url)
                left = httpx.get(f"{url}/api/delivery").json()["backlog_spans"]
            peak = _peak_mib(pid)
    return {
        "outage: spans that waited": waiting,
        "outage: spans left afterwards": left,
        "outage: p99 of ingest with the collector up, ms": up_p99_ms,
        "outage: p99 of ingest with the collector away, ms": away_p99_ms,
        "outage: p99 away / up": away_p99_ms / up_p99_ms,
        "outage: resident memory idle, MiB": idle,
        "outage: resident memory at most, above idle, MiB": peak - idle,
    }


def _load(url: str, seconds: int) -> tuple[float, int]:
    """Whole traces for so long; p99 in milliseconds, and how many events were acknowledged."""
    printed = wrk(f"-t{CONNECTIONS}", f"-c{CONNECTIONS}", f"-d{seconds}", "--latency", script="traces", url=url)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", printed)
    requests = re.search(r"(\d+) requests in", printed)
    assert p99 is not None
    assert requests is not None
    return float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]], int(requests[1])


def _wait_until_delivered(url: str) -> None:
    never = threading.Event()
    for _ in range(1_200):
        if httpx.get(f"{url}/api/delivery").json()["backlog_traces"] == 0:
            return
        never.wait(0.1)
    raise RuntimeError("the backlog was not delivered")


def _resident_mib(pid: int) -> float:
    return _status_mib(pid, "VmRSS")


def _peak_mib(pid: int) -> float:
    return _status_mib(pid, "VmHWM")


def _status_mib(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
