"""Timelines as answers: JSON, CSV for a spreadsheet, newline-delimited JSON for a notebook."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pydantic_core import to_json

Listed = Mapping[str, Any]
"""A timeline as JSON answers have it."""

CSV_COLUMNS = (
    "trace_tag",
    "trace_id",
    "run",
    "otel_trace_id",
    "outcome",
    "service",
    "start_time",
    "end_time",
    "sealed_at",
    "duration_seconds",
    "step_index",
    "step_name",
    "step_time",
    "track_duration",
    "step_duration_seconds",
    "attributes",
    "error_type",
    "error_message",
    "clock_shift_ms",
    "missing_events",
    "delivery_state",
)
"""A trace is a line with its duration and no step, followed by a line for each step, with the step's: so a column
adds up, whatever is asked of it."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Form:
    """A form that timelines can be answered in, all at once or, if `streams`, one part after the other."""

    media_type: str
    head: bytes
    """What comes first."""
    write: Callable[[Sequence[Listed]], bytes]
    streams: bool

    def headers(self, trace_tag: str) -> dict[str, str]:
        """`trace_tag` names the file that a browser saves it as."""
        headers = {"Content-Type": self.media_type}
        if self is FORMS["csv"]:
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(trace_tag, safe='')}.csv"
        return headers


def _ndjson(timelines: Sequence[Listed]) -> bytes:
    return b"".join(to_json(timeline) + b"\n" for timeline in timelines)


def _csv(timelines: Sequence[Listed]) -> bytes:
    return _csv_lines(line for timeline in timelines for line in _lines(timeline))


def _csv_lines(lines: Iterator[Sequence[Any]]) -> bytes:
    """As RFC 4180 has it."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([[_cell(value) for value in line] for line in lines])
    return text.getvalue().encode()


def _lines(timeline: Listed) -> Iterator[Sequence[Any]]:
    of_trace = {name: timeline.get(name) for name in CSV_COLUMNS}
    of_trace |= _of_both(timeline)
    of_trace["delivery_state"] = timeline["delivery"] and timeline["delivery"]["state"]
    yield list(of_trace.values())
    of_each_step = dict.fromkeys(CSV_COLUMNS) | {
        name: timeline[name] for name in ("trace_tag", "trace_id", "run", "otel_trace_id", "outcome", "service")
    }
    for index, step in enumerate(timeline["steps"]):
        of_step = {
            "step_index": index,
            "step_name": step["step_name"],
            "step_time": step["step_time"],
            "track_duration": step["track_duration"],
            "step_duration_seconds": step["duration_seconds"],
        }
        yield list((of_each_step | of_step | _of_both(step)).values())


def _of_both(marked: Mapping[str, Any]) -> dict[str, Any]:
    """What traces and steps both have."""
    error = marked["error"] or {"type": None, "message": None}
    attributes = json.dumps(marked["attributes"], ensure_ascii=False) if marked["attributes"] else None
    return {"attributes": attributes, "error_type": error["type"], "error_message": error["message"]}


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    # A spreadsheet would run what a client sent as a formula: https://owasp.org/www-community/attacks/CSV_Injection
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


FORMS = {
    "json": Form("application/json", b"", to_json, streams=False),
    "csv": Form("text/csv; charset=utf-8", _csv_lines(iter([CSV_COLUMNS])), _csv, streams=True),
    "ndjson": Form("application/x-ndjson", b"", _ndjson, streams=True),
}
