"""PostgreSQL goes away and comes back, moves elsewhere, is held up: what was acknowledged stays, the rest is refused in
time, and nobody has to restart the gateway."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import text

from gateway.errors import PerfTracerError, StartError
from gateway.store.engine import Database
from tests.clients import Client
from tests.otlp_server import OtlpServer, otlp_server
from tests.postgres import Postgres, require_postgres
from tests.processes import PATIENCE_SECONDS, ROOT, Gateway
from tests.scripted_collector import self_signed_certificate
from tests.waiting import wait_until

BATCH_CLIENTS = 3
SINGLE_CLIENTS = 3
RUNS_A_BATCH = 3
RETRY_SECONDS = 0.05
STEPS = ["step-1", "step-2"]
SPANS_A_TRACE = 1 + len(STEPS)

BACK_SECONDS = 2.0
"""How soon after PostgreSQL takes connections the gateway stores again."""
NOISE_SECONDS = 2.0
"""What a machine with other things to do may add to a time."""
ANSWER_SECONDS = 5.0
"""The longest that a request waits while connections are refused or cut: the limits below together."""
STUCK_SECONDS = 12.0
"""The longest that a request waits while each attempt to connect takes its whole time: behind those of the sweeper and
of the events before it."""
LIMITS = {
    "PERF_TRACER_DATABASE_BUSY_TIMEOUT_SECONDS": "1",
    "PERF_TRACER_DATABASE_STATEMENT_TIMEOUT_SECONDS": "2",
    "PERF_TRACER_DATABASE_CONNECT_TIMEOUT_SECONDS": "2",
    "PERF_TRACER_DATABASE_READER_CONNECTIONS": "2",
    # What was claimed when the database went away is claimed again when its lease ends, and that depends on this.
    "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
}
SECRET = "t0psecret"
OF_GATEWAYS = "WHERE application_name = 'perf-tracer' AND datname = current_database()"


@dataclass
class Known:
    """What a client knows of one of its traces."""

    trace_tag: str
    trace_id: str
    sent_steps: list[str] = field(default_factory=list)
    acknowledged_steps: list[str] = field(default_factory=list)
    started: bool = False
    end_sent: bool = False
    ended: bool = False


@dataclass(frozen=True)
class Answer:
    """What a client was answered, when, and after how long."""

    status: int
    retry_after: str | None
    seconds: float
    at: float
    writes: bool


class Load:
    """Clients that go on, whatever becomes of the database, until this context ends."""

    def __init__(self, url: str, *, readers: int = 1) -> None:
        self.url = url
        self.known: list[Known] = []
        self.answers: list[Answer] = []
        self.ending = threading.Event()
        self.hopeless = threading.Event()
        self._errors: list[Exception] = []
        self._changed = threading.Condition()
        clients = [BatchClient] * BATCH_CLIENTS + [SingleClient] * SINGLE_CLIENTS + [ReadClient] * readers
        self._clients = [kind(self, f"client-{number}") for number, kind in enumerate(clients)]

    def __enter__(self) -> "Load":
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for client in self._clients:
            client.join(PATIENCE_SECONDS)
        self.hopeless.set()

        assert not self._errors
        assert not any(client.is_alive() for client in self._clients)

    @property
    def refused(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]

    def acknowledged(self, since: float = 0.0) -> list[Answer]:
        """What was stored since then."""
        return [answer for answer in self.answers if answer.status == 200 and answer.writes and answer.at >= since]

    def wait_until_acknowledged(self, count: int) -> None:
        """Until so many more are."""
        since = time.monotonic()
        self.wait_until(lambda: len(self.acknowledged(since)) >= count)

    def wait_until_refused(self, count: int) -> None:
        """Until so many more are."""
        before = len(self.refused)
        self.wait_until(lambda: len(self.refused) >= before + count)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait for `reached`, looked at after each answer."""
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self._errors) or reached(), PATIENCE_SECONDS)

    def note(self, answer: Answer) -> None:
        with self._changed:
            self.answers.append(answer)
            self._changed.notify_all()

    def note_error(self, error: Exception) -> None:
        with self._changed:
            self._errors.append(error)
            self._changed.notify_all()


class LoadClient(threading.Thread):
    """One of them, with a tag of its own."""

    def __init__(self, load: Load, trace_tag: str) -> None:
        super().__init__(daemon=True)
        self.trace_tag = trace_tag
        self.load = load
        self.count = 0

    def run(self) -> None:
        with httpx.Client(base_url=self.load.url, timeout=PATIENCE_SECONDS) as client:
            try:
                while not self.load.ending.is_set():
                    self.say_some(client)
            except Exception as error:
                self.load.note_error(error)

    def say_some(self, client: httpx.Client) -> None:
        raise NotImplementedError

    def ask(self, client: httpx.Client, method: str, path: str, body: Any = None) -> httpx.Response:
        began = time.monotonic()
        answer = client.request(method, path, json=body)
        ended = time.monotonic()
        self.load.note(
            Answer(answer.status_code, answer.headers.get("retry-after"), ended - began, ended, method == "POST")
        )
        if answer.status_code != 200:
            self.load.hopeless.wait(RETRY_SECONDS)
        return answer

    def new_trace(self) -> Known:
        self.count += 1
        trace = Known(self.trace_tag, str(self.count))
        self.load.known.append(trace)
        return trace


class BatchClient(LoadClient):
    """Says each trace in two batches; repeats each of them until it is acknowledged."""

    def say_some(self, client: httpx.Client) -> None:
        traces = [self.new_trace() for _ in range(RUNS_A_BATCH)]
        self.say(client, traces, [{"type": "start"}, {"type": "step", "step_name": STEPS[0]}], 0)
        self.say(client, traces, [{"type": "step", "step_name": STEPS[1]}, {"type": "end"}], 2)
        for trace in traces:
            trace.sent_steps = trace.acknowledged_steps = STEPS
            trace.started = trace.end_sent = trace.ended = True

    def say(self, client: httpx.Client, traces: list[Known], events: list[dict[str, Any]], first_seq: int) -> None:
        numbered = [{"seq": seq, **event} for seq, event in enumerate(events, first_seq)]
        runs = [{"trace_tag": trace.trace_tag, "trace_id": trace.trace_id, "events": numbered} for trace in traces]
        while not self.load.hopeless.is_set():
            answer = self.ask(client, "POST", "/api/tracing/batch", {"traces": runs})
            if answer.status_code == 200:
                result = answer.json()
                assert result["accepted"] + result["duplicates"] == len(runs) * len(events), result
                return


class SingleClient(LoadClient):
    """Says each trace event by event; lets go of one whose event was refused: perhaps it was stored."""

    def say_some(self, client: httpx.Client) -> None:
        trace = self.new_trace()
        trace.started = self.say(client, trace, "start")
        if not trace.started:
            return
        for name in STEPS:
            trace.sent_steps.append(name)
            if not self.say(client, trace, "step", step_name=name):
                return
            trace.acknowledged_steps.append(name)
        trace.end_sent = True
        trace.ended = self.say(client, trace, "end")

    def say(self, client: httpx.Client, trace: Known, verb: str, **fields: str) -> bool:
        body = {"trace_tag": trace.trace_tag, "trace_id": trace.trace_id, **fields}
        return self.ask(client, "POST", f"/api/tracing/{verb}", body).status_code == 200


class ReadClient(LoadClient):
    """Reads what the first of the others said."""

    def say_some(self, client: httpx.Client) -> None:
        for path in ("/api/traces", "/api/traces/client-0?limit=20", "/healthz"):
            self.ask(client, "GET", path)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed_certificate(tmp_path_factory.mktemp("certificate"), "right")


@pytest.fixture(scope="module")
def server(certificate: Path) -> Iterator[Postgres]:
    """A PostgreSQL that these tests may stop; each of them leaves it running."""
    require_postgres()
    server = Postgres(certificate=certificate)
    yield server
    server.remove()


@contextmanager
def gateway_on(folder: Path, url: str, env: Mapping[str, str] | None = None) -> Iterator[Gateway]:
    gateway = Gateway(folder, {**LIMITS, "PERF_TRACER_DATABASE_URL": url, **(env or {})})
    try:
        yield gateway
    finally:
        gateway.stop()


@contextmanager
def delivering_gateway_on(folder: Path, url: str) -> Iterator[tuple[Gateway, OtlpServer]]:
    with otlp_server() as receiver:
        exporting = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        with gateway_on(folder, url, exporting) as gateway:
            yield gateway, receiver


@pytest.mark.parametrize("end", [Postgres.stop, Postgres.kill], ids=["restarted", "killed"])
def test_gateway_stores_again_as_soon_as_the_server_is_back(
    server: Postgres, tmp_path: Path, end: Callable[[Postgres], None]
) -> None:
    url = server.new_database()
    with delivering_gateway_on(tmp_path, url) as (gateway, receiver):
        with Load(gateway.url) as load:
            load.wait_until_acknowledged(100)
            end(server)
            load.wait_until_refused(50)
            down_at = time.monotonic()
            server.start()
            ready_at = time.monotonic()
            load.wait_until_acknowledged(100)
        back_seconds = load.acknowledged(since=down_at)[0].at - ready_at

        assert back_seconds < BACK_SECONDS + NOISE_SECONDS
        check_answers(load, gateway)
        check_stored(load, gateway, url)
        check_delivered(receiver, url)


def test_cut_connections_cost_refusals_only(server: Postgres, tmp_path: Path) -> None:
    url = server.new_database()
    with delivering_gateway_on(tmp_path, url) as (gateway, receiver):
        with Load(gateway.url) as load:
            for _ in range(6):
                load.wait_until_acknowledged(30)
                assert server.cut_connections() > 0
                cut_at = time.monotonic()
                load.wait_until_acknowledged(30)

                assert load.acknowledged(since=cut_at)[0].at - cut_at < BACK_SECONDS + NOISE_SECONDS

        assert load.refused
        check_answers(load, gateway)
        check_stored(load, gateway, url)
        check_delivered(receiver, url)


def test_server_that_answers_nobody_is_given_up(server: Postgres, tmp_path: Path) -> None:
    url = server.new_database()
    with gateway_on(tmp_path, url) as gateway:
        with Load(gateway.url) as load:
            load.wait_until_acknowledged(100)
            with psycopg.connect(url, autocommit=True) as inside, server.frozen():
                inside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity " + OF_GATEWAYS)
                # Once because their connection was cut, then because there is no other.
                load.wait_until_refused(2 * (BATCH_CLIENTS + SINGLE_CLIENTS))
            thawed_at = time.monotonic()
            load.wait_until_acknowledged(100)

        assert load.acknowledged(since=thawed_at)[0].at - thawed_at < BACK_SECONDS + NOISE_SECONDS
        check_answers(load, gateway, seconds=STUCK_SECONDS)
        check_stored(load, gateway, url)


def kill_and_promote(primary: Postgres, standby: Postgres, load: Load) -> None:
    primary.kill()
    load.wait_until_refused(20)
    standby.promote()


def make_read_only_and_promote(primary: Postgres, standby: Postgres, load: Load) -> None:
    primary.set("default_transaction_read_only", "on")
    load.wait_until_refused(20)
    standby.promote()


def change_places(primary: Postgres, standby: Postgres, load: Load) -> None:
    primary.stop()
    load.wait_until_refused(20)
    standby.promote()
    primary.follow(standby)


@pytest.mark.parametrize("fail_over", [kill_and_promote, make_read_only_and_promote, change_places])
def test_gateway_follows_the_primary(tmp_path: Path, fail_over: Callable[[Postgres, Postgres, Load], None]) -> None:
    """No acknowledged event is lost, because the standby is synchronous: without `synchronous_standby_names`, what the
    primary acknowledged last may never have reached the standby, and is lost with the primary."""
    with primary_and_standby() as (primary, standby):
        database = primary.new_database()
        name = database.rpartition("/")[2]
        both = f"postgresql://tests@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/{name}"
        with gateway_on(tmp_path, f"{both}?target_session_attrs=read-write") as gateway:
            with Load(gateway.url) as load:
                load.wait_until_acknowledged(100)
                fail_over(primary, standby, load)
                promoted_at = time.monotonic()
                load.wait_until_acknowledged(100)

            assert load.acknowledged(since=promoted_at)[0].at - promoted_at < BACK_SECONDS + NOISE_SECONDS
            check_answers(load, gateway)
            check_stored(load, gateway, standby.url(name))


@contextmanager
def primary_and_standby() -> Iterator[tuple[Postgres, Postgres]]:
    """What the one acknowledges, the other has."""
    require_postgres()
    primary = Postgres()
    standby = Postgres(copy_of=primary)
    try:
        primary.set("synchronous_standby_names", "*")
        states = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_until(lambda: select(primary.url("postgres"), states) == [(1,)])
        yield primary, standby
    finally:
        standby.remove()
        primary.remove()


def test_connections_are_bounded(server: Postgres, tmp_path: Path) -> None:
    url = server.new_database()
    counts: list[int] = []
    with (
        gateway_on(tmp_path, url, {"PERF_TRACER_DATABASE_READER_CONNECTIONS": "3"}) as gateway,
        psycopg.connect(url, autocommit=True) as inside,
        Load(gateway.url, readers=8) as load,
    ):

        def watched(answers: int) -> bool:
            row = inside.execute("SELECT count(*) FROM pg_stat_activity " + OF_GATEWAYS).fetchone()
            counts.extend(row or ())
            return len(load.answers) >= answers

        wait_until(lambda: watched(400))
        inside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity " + OF_GATEWAYS)
        wait_until(lambda: watched(len(load.refused) + 800))

    assert max(counts) == 1 + 3
    check_answers(load, gateway)


def test_write_that_a_lock_holds_up_is_refused_in_time(server: Postgres, tmp_path: Path) -> None:
    url = server.new_database()
    limits = {
        "PERF_TRACER_DATABASE_BUSY_TIMEOUT_SECONDS": "0.5",
        "PERF_TRACER_DATABASE_STATEMENT_TIMEOUT_SECONDS": "30",
    }
    with gateway_on(tmp_path, url, limits) as gateway, Client(gateway.url) as client:
        client.say("start", "held-up", "1")
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE traces IN SHARE MODE")
            began = time.monotonic()
            refused = client.post("/api/tracing/start", json={"trace_tag": "held-up", "trace_id": "2"})
            seconds = time.monotonic() - began
            read = client.get("/api/traces/held-up/1")
        client.say("end", "held-up", "1")

        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert 0.4 < seconds < 0.5 + NOISE_SECONDS
        assert read.status_code == 200
        assert [timeline["trace_id"] for timeline in client.timelines("held-up")] == ["1"]
        assert client.get("/api/traces/held-up/2").json() == []
    assert "Traceback" not in gateway.output


@pytest.mark.parametrize("limit", ["BUSY", "STATEMENT"])
def test_statement_is_given_up_at_whichever_limit_comes_first(server: Postgres, tmp_path: Path, limit: str) -> None:
    url = server.new_database()
    limits = {f"PERF_TRACER_DATABASE_{one}_TIMEOUT_SECONDS": "30" for one in ("BUSY", "STATEMENT")}
    limits[f"PERF_TRACER_DATABASE_{limit}_TIMEOUT_SECONDS"] = "0.5"
    requests: list[tuple[str, str, Any]] = [
        ("GET", "/api/traces/held-up", None),
        ("POST", "/api/tracing/start", {"trace_tag": "held-up"}),
    ]
    refused, seconds = [], []
    with gateway_on(tmp_path, url, limits) as gateway, Client(gateway.url) as client:
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE traces IN ACCESS EXCLUSIVE MODE")
            for method, path, body in requests:
                began = time.monotonic()
                answer = client.request(method, path, json=body)
                seconds.append(time.monotonic() - began)
                refused.append((answer.status_code, answer.headers.get("retry-after")))
        again = [client.request(method, path, json=body).status_code for method, path, body in requests]

    assert refused == [(503, "1"), (503, "1")]
    assert all(0.4 < each < 0.5 + NOISE_SECONDS for each in seconds)
    assert again == [200, 200]
    assert "Traceback" not in gateway.output


def test_certificate_of_the_server_is_verified(server: Postgres, certificate: Path, tmp_path: Path) -> None:
    wrong = self_signed_certificate(tmp_path, "wrong")
    url = server.new_database()
    verifying = url.replace("tests@", f"tests:{SECRET}@") + "?sslmode=verify-full&sslrootcert="
    with gateway_on(tmp_path, f"{verifying}{certificate}") as gateway, Client(gateway.url) as client:
        client.whole_trace("safe")
        encrypted = select(url, "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) " + OF_GATEWAYS)
    output = failed_start(f"{verifying}{wrong}")

    assert encrypted == [(True,)]
    assert SECRET not in gateway.output
    assert "certificate verify failed" in output
    check_said_in_one_line(output)


UNUSABLE = {
    "no_url": "postgresql",
    "another_kind": f"mysql://tests:{SECRET}@127.0.0.1/test",
    "with_a_driver": f"postgresql+psycopg://tests:{SECRET}@127.0.0.1/test",
    "bad_escape": f"postgresql://tests:{SECRET}%ZZ@127.0.0.1/test",
    "bad_bracket": f"postgresql://tests:{SECRET}@[::1/test",
    "unknown_parameter": f"postgresql://tests:{SECRET}@127.0.0.1/test?password_is={SECRET}",
    "bad_port": f"postgresql://tests:{SECRET}@127.0.0.1:54x32/test",
    "bad_sslmode": f"postgresql://tests:{SECRET}@127.0.0.1/test?sslmode=always",
    "bad_connect_timeout": f"postgresql://tests:{SECRET}@127.0.0.1/test?connect_timeout=soon",
    # Left as they are, where %40 and %2F are meant.
    "at_in_password": f"postgresql://tests:p@{SECRET}@127.0.0.1/test",
    "slash_in_password": f"postgresql://tests:{SECRET}/p@127.0.0.1/test",
}


@pytest.mark.parametrize("url", UNUSABLE.values(), ids=UNUSABLE)
def test_url_that_cannot_be_used_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StartError) as refused:
        asyncio.run(opened_and_closed(url))

    assert refused.value.message.startswith("PERF_TRACER_DATABASE_URL: ")
    assert SECRET not in refused.value.message


@pytest.mark.parametrize("name", ["another_kind", "bad_escape", "at_in_password"])
def test_url_that_cannot_be_used_ends_the_start_with_one_line(name: str) -> None:
    output = failed_start(UNUSABLE[name])

    check_said_in_one_line(output)
    assert "cannot start: PERF_TRACER_DATABASE_URL" in output


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid"])
def test_server_that_cannot_be_reached_ends_the_start_with_one_line(host: str) -> None:
    check_said_in_one_line(failed_start(f"postgresql://tests:{SECRET}@{host}/test"))


def check_said_in_one_line(output: str) -> None:
    """Why it does not start, and no secret."""
    assert SECRET not in output
    assert len([line for line in output.splitlines() if "cannot start" in line]) == 1
    assert "Traceback" not in output


def failed_start(url: str) -> str:
    """What a gateway says that does not start."""
    command = [sys.executable, "-m", "uvicorn", "main:app", "--host", "127.0.0.1", "--port", "0"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **LIMITS, "OTEL_TRACES_EXPORTER": "none", "PERF_TRACER_DATABASE_URL": url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode != 0
    return done.stdout


@pytest.mark.parametrize(("own", "expected_seconds"), [("", 2), ("?connect_timeout=3", 3)])
def test_host_that_does_not_answer_is_given_up_at_the_connect_timeout(own: str, expected_seconds: float) -> None:
    """The one that the URL has counts, where it has one."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(PerfTracerError):
            asyncio.run(opened_and_closed(f"postgresql://tests@127.0.0.1:{silent.getsockname()[1]}/test{own}"))
        seconds = time.monotonic() - began

    assert expected_seconds - 0.1 < seconds < expected_seconds + NOISE_SECONDS


async def opened_and_closed(url: str) -> None:
    database = Database(url, busy_timeout_seconds=1, connect_timeout_seconds=2)
    try:
        await database.open()
    finally:
        await database.close()


@pytest.mark.parametrize(("default", "used"), [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")])
@pytest.mark.parametrize("where", ["database", "role", "url"])
def test_commits_are_synced_however_the_server_is_set_up(server: Postgres, where: str, default: str, used: str) -> None:
    url = server.new_database()
    name = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        if where == "database":
            connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = {default}")
        elif where == "role":
            connection.execute(f"CREATE ROLE role_of_{name} LOGIN")
            connection.execute(f"ALTER ROLE role_of_{name} SET synchronous_commit = {default}")
            url = url.replace("tests@", f"role_of_{name}@")
        else:
            url += f"?options=-csynchronous_commit%3D{default}"
    database = Database(url, busy_timeout_seconds=1)
    shown = []
    # The second time in a connection that has been used before.
    for _ in range(2):
        with database.writer.begin() as session:
            shown.append(session.execute(text("SHOW synchronous_commit")).scalar())
    asyncio.run(database.close())

    assert shown == [used, used]


def select(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def check_answers(load: Load, gateway: Gateway, seconds: float = ANSWER_SECONDS) -> None:
    """Whoever was refused was told so in time, and to come again; and it was no surprise to the gateway."""
    assert {(answer.status, answer.retry_after) for answer in load.refused} <= {(503, "1")}
    assert max(answer.seconds for answer in load.answers) < seconds
    assert "Traceback" not in gateway.output


def check_stored(load: Load, gateway: Gateway, url: str) -> None:
    """Every acknowledged event is there once, and nothing by halves."""
    stored = {(tag, id_): (outcome, steps) for tag, id_, outcome, steps in select(url, STORED)}
    for trace in load.known:
        outcome, steps = stored.pop((trace.trace_tag, trace.trace_id), ("", []))
        # The last one may have been stored without the client ever being told.
        assert steps in (trace.acknowledged_steps, trace.sent_steps)
        assert outcome in ({"completed"} if trace.ended else {"completed", "open"} if trace.end_sent else {"open", ""})
        assert outcome or not trace.started
    assert not stored
    completed = Counter(tag for tag, _, outcome, _ in select(url, STORED) if outcome == "completed")
    with Client(gateway.url) as client:
        summaries = {line["trace_tag"]: line["count"] for line in client.get("/api/summaries").json()}
        listed = {tag: client.get(f"/api/traces/{tag}?format=ndjson").text.count("\n") for tag in completed}

    assert summaries == completed
    assert listed == completed
    assert select(url, HALF_STORED) == []


STORED = """
    SELECT trace_tag, trace_id, outcome,
        coalesce(array_agg(step_name ORDER BY seq) FILTER (WHERE step_name IS NOT NULL), '{}')
    FROM traces JOIN marks USING (run_key, shard) GROUP BY run_key, shard
"""
HALF_STORED = """
    SELECT run_key, mark_count, found
    FROM traces FULL JOIN (SELECT run_key, shard, count(*) AS found FROM marks GROUP BY run_key, shard) AS counted
    USING (run_key, shard)
    WHERE mark_count IS DISTINCT FROM found
"""


def check_delivered(receiver: OtlpServer, url: str) -> None:
    """Every completed trace is with the receiver, whole, and its receipt says so."""
    completed = {id_ for (id_,) in select(url, "SELECT otel_trace_id FROM traces WHERE outcome = 'completed'")}
    receiver.wait_until(lambda it: completed <= it.taken.keys())
    undelivered = "SELECT count(*) FROM traces WHERE outcome = 'completed' AND delivery_state <> 'delivered'"
    wait_until(lambda: select(url, undelivered) == [(0,)])

    assert receiver.taken.keys() == completed
    assert select(url, "SELECT count(*) FROM outbox") == [(0,)]
    for id_ in completed:
        for part in receiver.taken[id_]:
            assert len(part.scope_spans[0].spans) == SPANS_A_TRACE
