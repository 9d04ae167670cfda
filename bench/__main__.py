"""Run every figure and print it, with its ratio to a rival or a limit: `uv run python -m bench`."""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from bench.client import measure_client
from bench.outage import measure_outage
from bench.pages import measure_pages
from bench.postgres import measure_depth, measure_postgres
from bench.reads import measure_interference, measure_reads
from bench.servers import LOAD_CORE, ROOT, SERVER_CORE, pinned, served, wrk

CONNECTIONS = 32
OPEN_TRACES = 64


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("figures", nargs="*", default=list(FIGURES), help=f"which ones: {', '.join(FIGURES)}")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, in turn")
    parser.add_argument("--seconds", type=int, default=5, help="how long each measurement lasts")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    if unknown := set(options.figures) - FIGURES.keys():
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    # Before anything is measured: that takes minutes.
    needed = {"client": {"chromium"}, "pages": {"chromium", "wrk"}}
    for program in sorted(set().union(*(needed.get(name, {"wrk"}) for name in options.figures))):
        if shutil.which(program) is None:
            sys.exit(f"bench needs {program} (on Debian: apt-get install {program})")
    measured: dict[str, float] = {}
    for name in options.figures:
        measured |= FIGURES[name](options.rounds, options.seconds)
    for name, value in measured.items():
        print(f"{name:60} {value:12.3f}")
    if options.json:
        options.json.write_text(json.dumps(measured, indent=2) + "\n")


def single_steps(rounds: int, seconds: int) -> dict[str, float]:
    """Requests per second of single steps, fsync on, next to a bare ASGI reply: medians of rounds that take turns."""
    bare: list[float] = []
    steps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        # Traces stay open, so nothing is delivered; delivery is on all the same.
        gateway_env = {"PERF_TRACER_DATABASE_URL": f"sqlite:///{folder}/bench.db"}
        with served("bench.bare:service") as bare_url, served("main:app", gateway_env) as gateway_url:
            for _ in range(rounds):
                bare.append(requests_per_second(bare_url, seconds))
                open_traces(gateway_url)
                steps.append(requests_per_second(gateway_url, seconds))
    return {
        "bare ASGI reply, requests/s": statistics.median(bare),
        "single step, requests/s": statistics.median(steps),
        "single step / bare ASGI reply": statistics.median(s / b for s, b in zip(steps, bare, strict=True)),
    }


def open_traces(url: str) -> None:
    """Open traces for the steps to go to; anew for each round, since a trace has at most so many steps."""
    with httpx.Client(base_url=url) as client:
        for number in range(OPEN_TRACES):
            body = {"trace_tag": "bench", "trace_id": str(number)}
            client.post("/api/tracing/start", json=body).raise_for_status()


def requests_per_second(url: str, seconds: int, script: str = "step") -> float:
    """What wrk reaches, all of it answered with 2xx."""
    printed = wrk("-t1", f"-c{CONNECTIONS}", f"-d{seconds}", script=script, url=url)
    found = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    assert found is not None
    return float(found[1])


def export(rounds: int, _seconds: int) -> dict[str, float]:
    """Spans per second from outbox to a collector that answers at once, next to the SDK's own way there."""
    ours: list[float] = []
    sdk: list[float] = []
    with served("bench.bare:collector", core=LOAD_CORE) as url:
        for _ in range(rounds):
            ours.append(spans_per_second("ours", f"{url}/v1/traces"))
            sdk.append(spans_per_second("sdk", f"{url}/v1/traces"))
    return {
        "outbox to collector, spans/s": statistics.median(ours),
        "SDK tracer, processor, exporter, spans/s": statistics.median(sdk),
        "outbox / SDK": statistics.median(o / s for o, s in zip(ours, sdk, strict=True)),
    }


def spans_per_second(way: str, endpoint: str) -> float:
    return printed_number("bench.export", way, endpoint)


def printed_number(module: str, *arguments: str) -> float:
    """What a module of the benchmark measures in a process of its own, on the servers' core."""
    command = [sys.executable, "-m", module, *arguments]
    printed = subprocess.run(
        command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=pinned(SERVER_CORE)
    ).stdout
    return float(printed)


def batches(rounds: int, seconds: int) -> dict[str, float]:
    """Events per second in batches of 98, fsync on, delivery off, next to a bare ASGI reply, parse and insert."""
    bare: list[float] = []
    events: list[float] = []
    parsed: list[float] = []
    inserted: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        gateway_env = {"PERF_TRACER_DATABASE_URL": f"sqlite:///{folder}/bench.db", "OTEL_TRACES_EXPORTER": "none"}
        with served("bench.bare:service") as bare_url, served("main:app", gateway_env) as gateway_url:
            for _ in range(rounds):
                bare.append(requests_per_second(bare_url, seconds))
                events.append(98 * requests_per_second(gateway_url, seconds, script="batch"))
                parsed.append(printed_number("bench.batch", "parse"))
                inserted.append(printed_number("bench.batch", "insert"))
    return {
        "batches, events/s": statistics.median(events),
        "bare parse of the same, events/s": statistics.median(parsed),
        "bare insert of the same, events/s": statistics.median(inserted),
        "batched events / bare ASGI reply": statistics.median(e / b for e, b in zip(events, bare, strict=True)),
    }


def outage(_rounds: int, _seconds: int) -> dict[str, float]:
    """Ten minutes without a collector, by delivery's clock, in which 100,000 spans arrive."""
    return measure_outage()


def reads(rounds: int, _seconds: int) -> dict[str, float]:
    """p99 of what is asked of a million traces, next to ten thousand."""
    return measure_reads(rounds)


def beside(rounds: int, seconds: int) -> dict[str, float]:
    """Events per second in batches, alone and beside ten reads a second."""
    return measure_interference(rounds, lambda url: 98 * requests_per_second(url, seconds, script="batch"))


def postgres(rounds: int, seconds: int) -> dict[str, float]:
    """Events per second in batches into PostgreSQL, next to bare inserts."""
    return measure_postgres(rounds, lambda url: 98 * requests_per_second(url, seconds, script="batch"))


def depth(rounds: int, seconds: int) -> dict[str, float]:
    """The same with ten million steps stored, next to an empty database."""
    return measure_depth(rounds, lambda url: 98 * requests_per_second(url, seconds, script="batch"))


def client(rounds: int, _seconds: int) -> dict[str, float]:
    """What the page pays and what is reported with the gateway 100 ms away, next to the original client class."""
    return measure_client(rounds)


def pages(rounds: int, seconds: int) -> dict[str, float]:
    """How soon pages show what they show, and what fifty open ones cost ingest."""
    return measure_pages(rounds, lambda url: 98 * requests_per_second(url, seconds, script="batch"))


FIGURES = {
    "step": single_steps,
    "batch": batches,
    "export": export,
    "outage": outage,
    "reads": reads,
    "beside": beside,
    "postgres": postgres,
    "depth": depth,
    "client": client,
    "pages": pages,
}

if __name__ == "__main__":
    main()
