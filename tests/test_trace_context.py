"""W3C Trace Context, as its specification has it."""

import pytest

from gateway.trace_context import (
    Parent,
    format_traceparent,
    normalize_tracestate,
    noted,
    parse_traceparent,
    trace_id_from,
)

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (f"00-{TRACE_ID}-{SPAN_ID}-01", 1),
        (f"00-{TRACE_ID}-{SPAN_ID}-00", 0),
        (f"00-{TRACE_ID}-{SPAN_ID}-ff", 1),
        (f"00-{TRACE_ID}-{SPAN_ID}-fe", 0),
        (f"01-{TRACE_ID}-{SPAN_ID}-01", 1),
        (f"cc-{TRACE_ID}-{SPAN_ID}-01-what-the-future-will-be-like", 1),
    ],
)
def test_valid_traceparent_is_read(value: str, flags: int) -> None:
    assert parse_traceparent(value) == Parent(TRACE_ID, SPAN_ID, flags)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f"00-{TRACE_ID}-{SPAN_ID}-1",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"00-{TRACE_ID}-{SPAN_ID}-01-",
        f"00-{TRACE_ID}-{SPAN_ID}-01\n",
        f" 00-{TRACE_ID}-{SPAN_ID}-01",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"cc-{TRACE_ID}-{SPAN_ID}-01.what",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID[:-1]}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-0g",
        f"0x-{TRACE_ID}-{SPAN_ID}-01",
    ],
)
def test_malformed_traceparent_names_nobody(value: str) -> None:
    assert parse_traceparent(value) is None


def test_traceparent_is_written_as_it_is_read() -> None:
    value = format_traceparent(TRACE_ID, SPAN_ID, 1)

    assert value == f"00-{TRACE_ID}-{SPAN_ID}-01"
    assert parse_traceparent(value) == Parent(TRACE_ID, SPAN_ID, 1)


@pytest.mark.parametrize(
    ("value", "normalized"),
    [
        ("", ""),
        ("vendor=t61rcWkgMzE", "vendor=t61rcWkgMzE"),
        ("rojo=00f067aa0ba902b7 ,\tcongo=t61rcWkgMzE,,", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("tenant@system=1", "tenant@system=1"),
        ("no-value", ""),
        ("Upper=1", ""),
        ("a=1,a=2", ""),
        ("a=1=2", ""),
        (",".join(f"k{index}=v" for index in range(32)), ",".join(f"k{index}=v" for index in range(32))),
        (",".join(f"k{index}=v" for index in range(33)), ""),
        ("k=" + "v" * 256, "k=" + "v" * 256),
        ("k=" + "v" * 257, ""),
        (",".join(f"k{index}={'v' * 200}" for index in range(3)), ""),
    ],
)
def test_tracestate_is_passed_through_within_its_limits(value: str, normalized: str) -> None:
    assert normalize_tracestate(value) == normalized


@pytest.mark.parametrize(
    ("name", "trace_id"),
    [(TRACE_ID, TRACE_ID), (TRACE_ID.upper(), TRACE_ID), ("0" * 32, None), ("42", None), (f"{TRACE_ID}0", None)],
)
def test_own_id_of_32_hex_digits_is_the_trace_id(name: str, trace_id: str | None) -> None:
    assert trace_id_from(name) == trace_id


@pytest.mark.parametrize(
    ("value", "note"), [("00-nonsense", "00-nonsense"), ("a\0b\n", "a\ufffdb\ufffd"), ("x" * 9999, "x" * 255)]
)
def test_malformed_value_is_noted_as_it_can_be_shown(value: str, note: str) -> None:
    assert noted(value) == note
