"""SQLite's file when it cannot be written, and when several gateways write it."""

import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients import Client
from tests.processes import PATIENCE_SECONDS, Gateway, Process
from tests.waiting import wait_until

IMPATIENT = {"PERF_TRACER_DATABASE_BUSY_TIMEOUT_SECONDS": "0.1"}
PATIENT = {"PERF_TRACER_DATABASE_BUSY_TIMEOUT_SECONDS": "60"}
STEPS = ("cart", "pay")
EVENTS_A_TRACE = len(STEPS) + 2
PAUSE_SECONDS = 0.01
"""Between two attempts of a client that is refused: a fraction of what `Retry-After` asks for."""
BEFORE = 20
"""Acknowledgements that each client has when the database begins to fail."""
IN_A_ROW = 5
"""Refusals without an acknowledgement in between, after which a client counts as refused."""
AFTER = 20
"""Acknowledgements that each client must get once the database works again."""
WAL_FRAME_BYTES = 4096 + 24
WAL_RESTARTS_AT_BYTES = 1_000 * WAL_FRAME_BYTES

Fault = Callable[[Gateway, Path], AbstractContextManager[None]]


class LoadClient(threading.Thread):
    """Sends trace after trace to gateways in turn, each request again and again until it is acknowledged."""

    def __init__(self, urls: Sequence[str], trace_tag: str) -> None:
        super().__init__()
        self.trace_tag = trace_tag
        self.traces = 0
        self.acknowledged = 0
        self.refused_in_a_row = 0
        self.refusals: Counter[tuple[int, str | None]] = Counter()
        """By status and `Retry-After`."""
        self.unexpected: Exception | None = None
        self.stopping = threading.Event()
        self._urls = urls

    def run(self) -> None:
        clients = [Client(url) for url in self._urls]
        self._turn = cycle(clients)
        try:
            while not self.stopping.is_set():
                self.send_trace(str(self.traces))
                self.traces += 1
            self.finish()
        except Exception as error:
            self.unexpected = error
        for client in clients:
            client.close()

    def send_trace(self, trace_id: str) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """What is left to do when the last trace has been sent."""

    def insist(self, verb: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The acknowledgement, at last."""
        while True:
            answer = next(self._turn).post(f"/api/tracing/{verb}", json=body)
            if answer.status_code == 200:
                self.acknowledged += 1
                self.refused_in_a_row = 0
                acknowledged: dict[str, Any] = answer.json()
                return acknowledged
            self.refusals[answer.status_code, answer.headers.get("Retry-After")] += 1
            self.refused_in_a_row += 1
            assert not self.stopping.wait(PAUSE_SECONDS), f"still refused: {answer.text}"


class Singles(LoadClient):
    """Sends event after event."""

    def send_trace(self, trace_id: str) -> None:
        named = {"trace_tag": self.trace_tag, "trace_id": trace_id}
        self.insist("start", named)
        for name in STEPS:
            self.insist("step", {**named, "step_name": name})
        ended = self.insist("end", named)
        assert [step["step_name"] for step in ended["steps"]] == [*STEPS]


class Batches(LoadClient):
    """Sends a trace in two batches, the second half first; and everything once more at the end."""

    def send_trace(self, trace_id: str) -> None:
        for batch in self._batches(trace_id):
            assert self.insist("batch", batch) == {"accepted": 2, "duplicates": 0, "rejected": []}

    def finish(self) -> None:
        for number in range(self.traces):
            for batch in self._batches(str(number)):
                assert self.insist("batch", batch) == {"accepted": 0, "duplicates": 2, "rejected": []}

    def _batches(self, trace_id: str) -> Iterator[dict[str, Any]]:
        cart, pay = ({"type": "step", "step_name": name} for name in STEPS)
        events = [{"seq": seq, **event} for seq, event in enumerate([{"type": "start"}, cart, pay, {"type": "end"}])]
        for half in (events[2:], events[:2]):
            header = {"trace_tag": self.trace_tag, "trace_id": trace_id, "run": f"run-{trace_id}"}
            yield {"traces": [{**header, "events": half}]}


@contextmanager
def load(*gateways: Gateway) -> Iterator[list[LoadClient]]:
    """Clients that send until the end of this."""
    urls = [gateway.url for gateway in gateways]
    clients = [
        *(Singles([*urls[number:], *urls[:number]], f"singles-{number}") for number in range(3)),
        *(Batches([*urls[number:], *urls[:number]], f"batches-{number}") for number in range(2)),
    ]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join()


@contextmanager
def no_room(gateway: Gateway, folder: Path) -> Iterator[None]:
    """No file of the gateway may grow beyond a limit, which the log soon reaches in the middle of a frame."""
    soft, hard = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
    size = (folder / "perf-tracer.db-wal").stat().st_size
    limit = min(size + round(2.5 * WAL_FRAME_BYTES), WAL_RESTARTS_AT_BYTES // 2)
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (limit, hard))
    yield
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def immutable(_: Gateway, folder: Path) -> Iterator[None]:
    """Nobody may write to the files any more, not even who has them open. Not so the -shm, which is mapped into memory:
    a write there would end the process with SIGBUS."""
    files = [str(folder / "perf-tracer.db"), str(folder / "perf-tracer.db-wal")]
    subprocess.run(["chattr", "+i", *files], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)


@contextmanager
def locked(_: Gateway, folder: Path) -> Iterator[None]:
    """Another process is writing, and takes its time."""
    with closing(sqlite3.connect(folder / "perf-tracer.db", isolation_level=None, timeout=PATIENCE_SECONDS)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def filled(_: Gateway, folder: Path) -> Iterator[None]:
    """The disk is full."""
    ballast = folder / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    yield
    ballast.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A folder on a disk of its own, of which there is not much."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def faults() -> list[Fault]:
    """Those that there is a right to cause here. The first two take none."""
    with tempfile.TemporaryDirectory() as folder:
        may_mount = succeeds("mount", "-t", "tmpfs", "none", folder) and succeeds("umount", folder)
        may_make_immutable = succeeds("chattr", "+i", folder) and succeeds("chattr", "-i", folder)
    return [no_room, locked, *([filled] if may_mount else []), *([immutable] if may_make_immutable else [])]


def succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("fault", faults())
def test_database_that_cannot_be_written_refuses_with_503_serves_reads_and_recovers(
    tmp_path: Path, fault: Fault
) -> None:
    with small_disk(tmp_path) if fault is filled else nullcontext(tmp_path) as folder:
        survive(folder, fault)


def survive(folder: Path, fault: Fault) -> None:
    """Let a gateway under load live through a fault of its database, and look at what that did."""
    gateway = Gateway(folder, IMPATIENT)
    with load(gateway) as clients, Client(gateway.url) as reader:
        wait_until(lambda: all(client.acknowledged >= BEFORE for client in clients) or broken(clients))
        with fault(gateway, folder):
            wait_until(lambda: reads_go_on(reader, clients) and (refused_for_good(clients) or broken(clients)))
        before = [client.acknowledged for client in clients]
        wait_until(lambda: acknowledged_again(clients, before) or broken(clients))

    for client in clients:
        assert client.unexpected is None
        assert {status for status, _ in client.refusals} == {503}
        assert all(after is not None and int(after) >= 1 for _, after in client.refusals)
    check(gateway, folder, clients)


def refused_for_good(clients: Sequence[LoadClient]) -> bool:
    """A small commit may still find the room that a large one did not."""
    return all(client.refused_in_a_row >= IN_A_ROW for client in clients)


def acknowledged_again(clients: Sequence[LoadClient], before: Sequence[int]) -> bool:
    return all(client.acknowledged >= one + AFTER for client, one in zip(clients, before, strict=True))


def broken(clients: Sequence[LoadClient]) -> bool:
    return any(client.unexpected is not None for client in clients)


def reads_go_on(reader: httpx.Client, clients: Sequence[LoadClient] = ()) -> bool:
    """Everything that can be read is answered, or the test fails."""
    for path in ("/healthz", "/api/traces", "/api/summaries", *(f"/api/traces/{one.trace_tag}" for one in clients)):
        assert reader.get(path).status_code == 200
    return True


def check(gateway: Gateway, folder: Path, clients: Sequence[LoadClient]) -> None:
    """Whatever was acknowledged is there once, and nothing else is."""
    with Client(gateway.url) as client:
        summaries = client.get("/api/summaries").json()
    gateway.stop()
    with closing(sqlite3.connect(folder / "perf-tracer.db")) as connection:
        integrity = connection.execute("PRAGMA integrity_check").fetchall()
        stored = Counter(
            connection.execute(
                "SELECT trace_tag, trace_id, outcome, step_name FROM traces JOIN marks USING (run_key, shard)"
            )
        )
        [(marks,)] = connection.execute("SELECT count(*) FROM marks")
        miscounted = connection.execute(
            "SELECT trace_tag, trace_id FROM traces WHERE mark_count <> "
            "(SELECT count(*) FROM marks WHERE marks.run_key = traces.run_key AND marks.shard = traces.shard)"
        ).fetchall()
    acknowledged = Counter(
        (client.trace_tag, str(number), "completed", name)
        for client in clients
        for number in range(client.traces)
        for name in (None, *STEPS, None)
    )

    assert integrity == [("ok",)]
    assert stored == acknowledged
    assert marks == acknowledged.total()
    assert miscounted == []
    assert {one["trace_tag"]: one["count"] for one in summaries} == {one.trace_tag: one.traces for one in clients}
    assert all(one["superseded"] == one["abandoned"] == 0 for one in summaries)


@pytest.mark.parametrize("fault", [no_room, locked])
def test_log_says_once_that_writes_fail_and_once_that_they_work_again(tmp_path: Path, fault: Fault) -> None:
    gateway = Gateway(tmp_path, IMPATIENT)
    with Client(gateway.url) as client:
        client.say("start", "checkout")
        with fault(gateway, tmp_path):
            wait_until(lambda: refused(client))
            for _ in range(3):
                assert refused(client)
                reads_go_on(client)
        client.say("step", "checkout", step_name="cart")
        reads_go_on(client)
    gateway.stop()

    assert gateway.output.count("the database cannot be written") == 1, gateway.output
    assert gateway.output.count("the database can be written again") == 1, gateway.output


def refused(client: Client) -> bool:
    """Whether a write is answered with 503."""
    return client.post("/api/tracing/start", json={"trace_tag": "refused"}).status_code == 503


class ObedientGateway(Process):
    """A gateway that may not do what the modes of files forbid, also where root runs the tests."""

    def __init__(self, folder: Path) -> None:
        obedient = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
        uvicorn = [sys.executable, "-m", "uvicorn", "main:app", "--host", "127.0.0.1", "--port", "0"]
        env = {"PERF_TRACER_DATABASE_URL": f"sqlite:///{folder}/perf-tracer.db", "OTEL_TRACES_EXPORTER": "none"}
        super().__init__([*obedient, *uvicorn], {**IMPATIENT, **env})

    @property
    def url(self) -> str:
        return self.wait_for(r"Uvicorn running on (http://\S+)").group(1)


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of a gateway that was killed after one trace, whose files must not be written any more."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    gateway = Gateway(folder)
    with Client(gateway.url) as client:
        client.whole_trace("checkout")
    gateway.kill()
    for path in folder.iterdir():
        path.chmod(0o444)
    yield folder
    make_writable(folder)


def make_writable(folder: Path) -> None:
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)


def test_gateway_that_starts_on_read_only_files_serves_reads(read_only_folder: Path) -> None:
    gateway = ObedientGateway(read_only_folder)
    with Client(gateway.url) as client:
        assert refused(client)
        reads_go_on(client)
        assert len(client.timelines("checkout")) == 1
    gateway.stop()

    assert "the database cannot be written: attempt to write a readonly database" in gateway.output


def test_gateway_that_started_on_read_only_files_writes_them_as_soon_as_it_may(read_only_folder: Path) -> None:
    gateway = ObedientGateway(read_only_folder)
    with Client(gateway.url) as client:
        reads_go_on(client)
        assert refused(client)
        make_writable(read_only_folder)
        # The first of these may be what finds out.
        answers = [client.post("/api/tracing/start", json={"trace_tag": "late"}).status_code for _ in range(5)]
    gateway.stop()

    assert answers[1:] == [200] * 4


def test_gateway_that_cannot_start_on_a_read_only_folder_says_so(read_only_folder: Path) -> None:
    for name in ("perf-tracer.db-wal", "perf-tracer.db-shm"):
        (read_only_folder / name).unlink()
    read_only_folder.chmod(0o555)
    gateway = ObedientGateway(read_only_folder)
    gateway.wait_for("Application startup failed")

    assert gateway.stop() != 0
    assert "attempt to write a readonly database" in gateway.output
    assert gateway.output.count("CRITICAL gateway.app: perf-tracer cannot start: ") == 1


def test_several_gateways_on_one_file_count_every_event_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as starting:
        gateways = list(starting.map(lambda _: Gateway(tmp_path, PATIENT), range(3)))
    with load(*gateways) as clients:
        wait_until(lambda: all(client.acknowledged >= 2 * BEFORE for client in clients) or broken(clients))

    for client in clients:
        assert client.unexpected is None
        assert not client.refusals
    for gateway in gateways[1:]:
        gateway.stop()
    check(gateways[0], tmp_path, clients)
