"""Batches: many events in one request, each counted once, in any order."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.clients import Client
from tests.otlp_server import otlp_server
from tests.processes import Gateway
from tests.rows import rows
from tests.waiting import wait_until

T0_MS = 1_789_000_000_000.0


@pytest.fixture
def tag() -> str:
    return uuid4().hex


@pytest.fixture
def client(shared_gateway: Gateway) -> Iterator[Client]:
    with Client(shared_gateway.url) as client:
        yield client


def event(seq: int, type_: str = "step", **fields: Any) -> dict[str, Any]:
    if type_ == "step":
        fields.setdefault("step_name", f"step-{seq}")
    return {"seq": seq, "type": type_, "time": T0_MS + seq * 100, **fields}


def whole(steps: int = 2) -> list[dict[str, Any]]:
    return [event(0, "start"), *(event(seq) for seq in range(1, steps + 1)), event(steps + 1, "end")]


def send(client: httpx.Client, tag: str, events: list[dict[str, Any]], run: str = "r", **header: Any) -> dict[str, Any]:
    answer = client.post(
        "/api/tracing/batch", json={"traces": [{"trace_tag": tag, "run": run, "events": events, **header}]}
    )
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def accepted(count: int, duplicates: int = 0) -> dict[str, Any]:
    return {"accepted": count, "duplicates": duplicates, "rejected": []}


def test_whole_trace_in_one_batch(client: Client, tag: str) -> None:
    assert send(client, tag, whole(), trace_id="42", service="web") == accepted(4)
    [timeline] = client.timelines(tag)

    assert (timeline["trace_id"], timeline["service"], timeline["outcome"]) == ("42", "web", "completed")
    assert [(one["step_name"], one["duration_seconds"]) for one in timeline["steps"]] == [
        ("step-1", 0.1),
        ("step-2", 0.1),
    ]
    assert timeline["duration_seconds"] == 0.3
    assert timeline["missing_events"] == 0


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 3, 0, 2), (3, 0, 2, 1)])
@pytest.mark.parametrize("together", [True, False])
def test_order_of_arrival_does_not_matter(client: Client, tag: str, order: tuple[int, ...], together: bool) -> None:
    events = whole()
    if together:
        send(client, tag, [events[index] for index in order])
    else:
        for index in order:
            assert client.timelines(tag) == []
            send(client, tag, [events[index]])
    [timeline] = client.timelines(tag)

    assert [one["step_name"] for one in timeline["steps"]] == ["step-1", "step-2"]
    assert [one["duration_seconds"] for one in timeline["steps"]] == [0.1, 0.1]
    assert timeline["start_time"] == "2026-09-10T00:26:40.000000Z"


def test_events_count_once_also_after_sealing(client: Client, tag: str) -> None:
    assert send(client, tag, whole()[:2]) == accepted(2)
    assert send(client, tag, whole()) == accepted(2, duplicates=2)
    assert send(client, tag, whole()) == accepted(0, duplicates=4)
    assert send(client, tag, [event(1), event(1)]) == accepted(0, duplicates=2)

    assert len(client.timelines(tag)) == 1


def test_events_count_once_after_deletion_too(client: Client, tag: str) -> None:
    send(client, tag, whole())
    client.delete(f"/api/traces/{tag}")
    assert send(client, tag, whole()) == accepted(0, duplicates=4)

    assert client.timelines(tag) == []


def test_emptied_runs_still_answer_duplicate(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, {"PERF_TRACER_SETTLE_SECONDS": "0.5"})
    with Client(gateway.url) as client:
        send(client, "emptied", whole(), run="whole")
        send(client, "emptied", [event(0, "start"), event(3, "end")], run="gaps")
        wait_until(lambda: len(client.timelines("emptied")) == 2)
        client.delete("/api/traces/emptied")
        wait_until(lambda: rows(tmp_path, "marks") == 0)

        assert rows(tmp_path, "traces") == 2
        assert send(client, "emptied", whole(), run="whole") == accepted(0, duplicates=4)
        assert send(client, "emptied", whole(), run="gaps") == accepted(0, duplicates=4)
        assert send(client, "emptied", [event(9)], run="whole")["rejected"][0]["status"] == 409
        assert client.timelines("emptied") == []
    gateway.stop()


def test_runs_of_one_id_coexist_and_do_not_mix_with_single_events(client: Client, tag: str) -> None:
    client.say("start", tag, "42")
    send(client, tag, whole(1), run="a", trace_id="42")
    send(client, tag, whole(2), run="b", trace_id="42")
    client.say("end", tag, "42")

    assert [len(timeline["steps"]) for timeline in client.timelines(tag)] == [1, 2, 0]


def test_run_defaults_to_the_trace_id(client: Client, tag: str) -> None:
    body = {"traces": [{"trace_tag": tag, "trace_id": "42", "events": whole()}]}

    assert client.post("/api/tracing/batch", json=body).json() == accepted(4)
    assert send(client, tag, whole(), run="42", trace_id="42") == accepted(0, duplicates=4)


@pytest.mark.parametrize(
    ("first", "then", "detail"),
    [
        (whole()[:1], event(1, "start"), "seq 0"),
        (whole(), event(4), "has ended"),
        ([event(0, "start"), event(3, "end")], event(4), "ends with seq 3"),
        ([event(0, "start"), event(3, "end")], event(2, "end"), "ends with seq 3"),
        ([event(0, "start"), event(3)], event(2, "end"), "goes on to seq 3"),
        ([event(0, "start"), event(2, end_trace=True)], event(3), "ends with seq 2"),
    ],
)
def test_contradictions_are_refused(client: Client, tag: str, first: Any, then: Any, detail: str) -> None:
    send(client, tag, first)
    [refusal] = send(client, tag, [then])["rejected"]

    assert (refusal["trace"], refusal["event"], refusal["status"]) == (0, 0, 409)
    assert detail in refusal["detail"]


def test_every_second_of_a_thousand_events_is_bad_and_the_good_ones_are_in(client: Client, tag: str) -> None:
    events = [event(0, "start")]
    for seq in range(1, 500):
        events += [{**event(seq), "step_name": ""}, event(seq)]
    result = send(client, tag, [*events, event(500, "end")])
    [timeline] = client.timelines(tag)

    assert result["accepted"] == len(timeline["steps"]) + 2 == 501
    assert [one["event"] for one in result["rejected"]] == [*range(1, 998, 2)]
    assert {(one["trace"], one["status"]) for one in result["rejected"]} == {(0, 422)}
    assert {one["detail"].split(":")[0] for one in result["rejected"]} == {"step_name"}


def test_bad_header_costs_other_traces_nothing(client: Client, tag: str) -> None:
    traces = [
        {"trace_tag": tag, "run": "bad", "service": "", "events": whole()},
        {"trace_tag": tag, "events": whole()},
        {"trace_tag": tag, "run": "good", "events": [*whole(), {"seq": 9, "type": "step"}]},
        "nonsense",
    ]
    result = client.post("/api/tracing/batch", json={"traces": traces}).json()

    assert result["accepted"] == 4
    assert [(one["trace"], one["event"], one["status"]) for one in result["rejected"]] == [
        (0, None, 422),
        (1, None, 422),
        (2, 4, 422),
        (3, None, 422),
    ]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (b"", ["body"]),
        (b"[]", ["body"]),
        (b"{}", ["body", "traces"]),
        (b'{"traces": {}}', ["body", "traces"]),
        (b'{"traces": [], "sent_at": "now"}', ["body", "sent_at"]),
        (b'{"traces": [], "dropped": -1}', ["body", "dropped"]),
        (json.dumps({"traces": [{"trace_tag": "t", "run": "r", "events": whole(999)}]}).encode(), ["body", "traces"]),
    ],
)
def test_body_that_is_no_batch_is_refused_as_a_whole(client: Client, body: bytes, loc: list[str]) -> None:
    answer = client.post("/api/tracing/batch", content=body)

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == loc


def test_lone_surrogate_is_named_and_costs_its_event_only(client: Client, tag: str) -> None:
    events = json.dumps([*whole(), event(9, step_name="?")]).replace('"?"', '"\\ud800"')
    body = f'{{"traces": [{{"trace_tag": "{tag}", "run": "r", "events": {events}}}]}}'
    result = client.post("/api/tracing/batch", content=body).json()

    assert result["accepted"] == 4
    assert result["rejected"][0]["detail"].startswith("step_name: ")


def test_same_batch_ten_times_over_eight_connections_counts_once(shared_gateway: Gateway, tag: str) -> None:
    results: list[dict[str, Any]] = []

    def send_ten_times() -> None:
        with Client(shared_gateway.url) as client:
            results.extend(send(client, tag, whole(20)) for _ in range(10))

    threads = [threading.Thread(target=send_ten_times) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Client(shared_gateway.url) as client:
        [timeline] = client.timelines(tag)

    assert len(timeline["steps"]) == 20
    assert sum(result["accepted"] for result in results) == 22
    assert sum(result["duplicates"] for result in results) == 79 * 22


def test_run_with_gaps_settles_and_says_how_many_are_missing(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, {"PERF_TRACER_SETTLE_SECONDS": "0.5"})
    with Client(gateway.url) as client:
        send(client, "gaps", [event(2), event(5), event(6, "end")])
        wait_until(lambda: client.timelines("gaps") != [])
        [timeline] = client.timelines("gaps")
        late = send(client, "gaps", [event(1), event(5)])
    gateway.stop()

    assert timeline["missing_events"] == 4
    assert (timeline["outcome"], timeline["duration_seconds"]) == ("completed", 0.4)
    assert [(one["step_name"], one["duration_seconds"]) for one in timeline["steps"]] == [
        ("step-2", 0.0),
        ("step-5", 0.3),
    ]
    assert (late["accepted"], late["duplicates"], late["rejected"][0]["status"]) == (0, 1, 409)


def test_run_that_never_ends_is_abandoned_started_or_not(tmp_path: Path) -> None:
    with otlp_server() as receiver:
        env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        gateway = Gateway(tmp_path, {**env, "PERF_TRACER_IDLE_TIMEOUT_SECONDS": "1"})
        ids = {"started": "1" * 32, "never": "2" * 32}
        with Client(gateway.url) as client:
            send(client, "started", [event(0, "start"), event(1)], otel_trace_id=ids["started"])
            send(client, "never", [event(3)], otel_trace_id=ids["never"])
            receiver.wait_until(lambda it: it.taken.keys() == set(ids.values()))
        gateway.stop()

    for name, missing in (("started", None), ("never", 3)):
        [part] = receiver.taken[ids[name]]
        attributes = {item.key: item.value for item in part.scope_spans[0].spans[0].attributes}
        assert attributes["perf_tracer.outcome"].string_value == "abandoned"
        found = attributes.get("perf_tracer.missing_events")
        assert (found.int_value if found else None) == missing


def test_header_is_filled_by_later_envelopes_and_the_first_value_wins(tmp_path: Path) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with otlp_server() as receiver:
        env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        gateway = Gateway(tmp_path, env)
        with Client(gateway.url) as client:
            send(client, "t", [event(0, "start")], otel_span_id="A" * 16)
            send(client, "t", [event(1)], service="first", otel_span_id="b" * 16, traceparent=parent, tracestate="v=1")
            send(client, "t", [event(2, "end")], service="second", traceparent=parent.replace("0af", "1af"))
            receiver.wait_until(lambda it: len(it.taken) == 1)
        gateway.stop()

    [part] = receiver.taken["0af7651916cd43dd8448eb211c80319c"]
    root = part.scope_spans[0].spans[0]
    assert (root.span_id.hex(), root.parent_span_id.hex(), root.trace_state) == ("a" * 16, "b7ad6b7169203331", "v=1")
    assert part.resource.attributes[0].value.string_value == "first"


@pytest.mark.parametrize("skew_seconds", [-3600, 3600])
def test_clock_of_the_client_is_corrected_and_durations_are_its_own(
    client: Client, tag: str, skew_seconds: int
) -> None:
    sent_ms = time.time() * 1000 + skew_seconds * 1000
    events = [{**one, "time": sent_ms - 1000 + one["seq"] * 100.5} for one in whole()]
    body = {"sent_at": sent_ms, "traces": [{"trace_tag": tag, "run": "r", "events": events}]}
    client.post("/api/tracing/batch", json=body)
    [timeline] = client.timelines(tag)

    assert abs(timeline["clock_shift_ms"] + skew_seconds * 1000) < 5_000
    assert [round(one["duration_seconds"], 4) for one in timeline["steps"]] == [0.1005, 0.1005]
