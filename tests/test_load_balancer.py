"""Two gateways on one PostgreSQL behind nginx, with the configuration that is shipped: to a client they are one."""

import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.clients import Client
from tests.opentelemetry import free_ports
from tests.postgres import Postgres
from tests.processes import PATIENCE_SECONDS, ROOT, Gateway, Process
from tests.waiting import wait_until

CLIENTS = 4
ACCESS_LOG = {"PERF_TRACER_ACCESS_LOG": "true"}


class Balancer(Process):
    """nginx with load-balancer.conf, before `replicas`. Listening when constructed."""

    def __init__(self, folder: Path, replicas: Sequence[str]) -> None:
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        moved = {
            "listen 8001;": f"listen 127.0.0.1:{self.port};",
            "/tmp/": f"{folder}/",
            **{f"replica-{number}:8000": urlsplit(url).netloc for number, url in enumerate(replicas, 1)},
        }
        text = (ROOT / "load-balancer.conf").read_text()
        for shipped, here in moved.items():
            assert shipped in text
            text = text.replace(shipped, here)
        configuration = folder / "nginx.conf"
        configuration.write_text(text)
        super().__init__([require_nginx(), "-c", configuration, "-e", "stderr", "-g", "daemon off;"])
        wait_until(self._listens)

    def _listens(self) -> bool:
        assert self._popen.poll() is None, self.output
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0


class Pair:
    """Two gateways on one database, and a balancer before them."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._folder = folder
        self._env = {**ACCESS_LOG, "PERF_TRACER_DATABASE_URL": database_url}
        self.gateways = [Gateway(folder, self._env), Gateway(folder, self._env)]
        self.balancer = Balancer(folder, [gateway.url for gateway in self.gateways])

    def restart(self, index: int) -> None:
        """Start the killed one of this index again, on the same port."""
        self.gateways[index] = Gateway(self._folder, self._env, urlsplit(self.gateways[index].url).port or 0)

    def asked(self, what: str) -> list[int]:
        """How many requests each gateway has answered whose line in its log begins with `what`."""
        return [len(re.findall(f'"{re.escape(what)}', gateway.output)) for gateway in self.gateways]

    def stop(self) -> None:
        self.balancer.stop()
        for gateway in self.gateways:
            gateway.kill()


class StandIn(ThreadingHTTPServer):
    """For a replica in a state that a real one is not easily brought into: it answers everything with `status`, or
    hangs up on everything, as one that is killed just then."""

    def __init__(self, status: int | None, taken: list[str]) -> None:
        """The methods of requests are put into `taken`."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                taken.append(self.command)
                if status is not None:
                    self.send_response(status)
                    self.send_header("Retry-After", "7")
                    self.end_headers()
                    self.wfile.write(b'{"detail":"Not now."}')

            def do_POST(self) -> None:
                self.do_GET()

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


def require_nginx() -> str:
    """Where nginx is. Skip where it is not, and say how to get it; in CI, fail."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        reason = "needs nginx (on Debian: apt-get install nginx-light)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return nginx


@pytest.fixture(scope="module")
def pair(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two that stay up, for tests that use tags of their own."""
    with running(postgres, tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
def mortal_pair(postgres: Postgres, tmp_path: Path) -> Iterator[Pair]:
    """Two for one test, which may kill them."""
    with running(postgres, tmp_path) as pair:
        yield pair


@contextmanager
def running(postgres: Postgres, folder: Path) -> Iterator[Pair]:
    require_nginx()
    pair = Pair(folder, postgres.new_database())
    try:
        yield pair
    finally:
        pair.stop()


@pytest.fixture
def client(pair: Pair) -> Iterator[Client]:
    with Client(pair.balancer.url) as client:
        yield client


def test_events_that_alternate_between_replicas_make_one_timeline(pair: Pair, client: Client) -> None:
    ended = client.whole_trace("alternating", steps=4)
    (listed,) = client.timelines("alternating")

    assert [step["step_name"] for step in listed["steps"]] == ["step-0", "step-1", "step-2", "step-3"]
    assert listed["steps"] == ended["steps"]
    assert listed["duration_seconds"] == ended["duration_seconds"]
    # Start and four steps and end, in turn.
    wait_until(lambda: pair.asked("POST /api/tracing/") == [3, 3])


@pytest.mark.parametrize("trace_tag", ["a/b", "a%2Fb", "//", "a/../b", "a?b#c d", "\N{BIRD}" * 255], ids=ascii)
def test_names_arrive_as_they_were_sent(client: Client, trace_tag: str) -> None:
    client.whole_trace(trace_tag)

    assert [timeline["trace_tag"] for timeline in client.timelines(trace_tag)] == [trace_tag]


def test_address_of_the_client_is_passed_on(pair: Pair) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as elsewhere:
        elsewhere.get(f"{pair.balancer.url}/healthz?from=elsewhere")

    # The gateway's server believes the header where it comes from this machine, and knows no port then.
    wait_until(lambda: any('127.0.0.2:0 - "GET /healthz?from=' in gateway.output for gateway in pair.gateways))


def test_gateway_itself_says_what_is_too_large(pair: Pair, client: Client) -> None:
    body = b"x" * int(1.05 * 2**20)

    answer = client.post("/api/tracing/start", content=body)
    direct = httpx.post(f"{pair.gateways[0].url}/api/tracing/start", content=body)

    assert answer.status_code == direct.status_code == 413
    assert answer.json() == direct.json()
    wait_until(lambda: sum(pair.asked('POST /api/tracing/start HTTP/1.1" 413')) == 2)


def test_far_too_large_a_body_is_refused_in_the_same_words(pair: Pair, client: Client) -> None:
    direct = httpx.post(f"{pair.gateways[0].url}/api/tracing/start", content=b"x" * 2**21)
    answer = client.post("/api/tracing/start", content=b"x" * 2**21)

    assert answer.status_code == direct.status_code == 413
    assert answer.headers["content-type"] == direct.headers["content-type"]
    assert answer.json() == direct.json()


def test_nobody_notices_a_replica_that_was_killed_but_for_events_on_their_way(mortal_pair: Pair) -> None:
    survivor, victim = mortal_pair.gateways
    enough = 25
    killed = threading.Event()
    begun = threading.Barrier(CLIENTS + 1, timeout=PATIENCE_SECONDS)

    def start_traces_and_read(name: str) -> tuple[set[str], list[httpx.Response]]:
        """The ids of the traces that were acknowledged, and the answers that were none."""
        acknowledged, refused, after = set(), [], 0
        with Client(mortal_pair.balancer.url) as client:
            for number in count():
                if number == enough:
                    begun.wait()
                after += killed.is_set()
                trace_id = f"{name}-{number}"
                answer = client.post("/api/tracing/start", json={"trace_tag": "watched", "trace_id": trace_id})
                if answer.status_code == 200:
                    acknowledged.add(trace_id)
                else:
                    refused.append(answer)
                assert client.get("/healthz").status_code == 200
                if after == enough:
                    break
        return acknowledged, refused

    with ThreadPoolExecutor(CLIENTS) as threads:
        results = [threads.submit(start_traces_and_read, f"client-{index}") for index in range(CLIENTS)]
        begun.wait()
        victim.kill()
        killed.set()
    with Client(survivor.url) as client:
        everything = client.get("/api/traces/watched", params={"outcome": "open", "format": "ndjson"}).text
        kept = {json.loads(line)["trace_id"] for line in everything.splitlines()}

    for result in results:
        acknowledged, refused = result.result()
        assert acknowledged <= kept
        assert [answer.status_code for answer in refused] in ([], [503])


def test_replica_that_comes_back_is_asked_again(mortal_pair: Pair) -> None:
    mortal_pair.gateways[0].kill()
    with Client(mortal_pair.balancer.url) as client:
        client.whole_trace("meanwhile")
        mortal_pair.restart(0)

        def is_asked() -> bool:
            client.get("/healthz")
            return mortal_pair.asked("GET /healthz")[0] > 0

        wait_until(is_asked)


def test_without_a_replica_the_answer_is_to_come_back(mortal_pair: Pair) -> None:
    for gateway in mortal_pair.gateways:
        gateway.kill()
    with Client(mortal_pair.balancer.url) as client:
        answers = [client.post("/api/tracing/start", json={"trace_tag": "away"}) for _ in range(3)]
        mortal_pair.restart(1)
        wait_until(lambda: client.get("/healthz").status_code == 200)
        client.whole_trace("away")

        assert len(client.timelines("away")) == 1
    for answer in answers:
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["content-type"] == "application/json"
        assert list(answer.json()) == ["detail"]


def test_event_that_a_replica_has_got_is_never_sent_to_the_other(tmp_path: Path) -> None:
    """It may have been stored before the replica went away. Reads are asked again."""
    with balanced_stand_ins(tmp_path) as (url, taken):
        answer = httpx.post(f"{url}/api/tracing/start", json={"trace_tag": "once"})
        assert taken == ["POST"]
    (tmp_path / "again").mkdir()
    with balanced_stand_ins(tmp_path / "again") as (url, taken):
        httpx.get(f"{url}/api/traces")
        assert taken == ["GET", "GET"]

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_refusal_of_a_replica_is_passed_on(tmp_path: Path) -> None:
    with balanced_stand_ins(tmp_path, status=503) as (url, taken):
        answer = httpx.get(f"{url}/api/traces")
        assert taken == ["GET"]

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "7"
    assert answer.json() == {"detail": "Not now."}


@contextmanager
def balanced_stand_ins(folder: Path, status: int | None = None) -> Iterator[tuple[str, list[str]]]:
    """The URL of a balancer before two stand-ins, and what they were asked."""
    require_nginx()
    taken: list[str] = []
    stand_ins = [StandIn(status, taken), StandIn(status, taken)]
    with ThreadPoolExecutor(len(stand_ins)) as threads:
        for stand_in in stand_ins:
            threads.submit(stand_in.serve_forever, poll_interval=0.02)
        balancer = Balancer(folder, [stand_in.url for stand_in in stand_ins])
        try:
            yield balancer.url, taken
        finally:
            balancer.stop()
            for stand_in in stand_ins:
                stand_in.shutdown()
                stand_in.server_close()
