"""What the read API can be asked for. A parameter that nobody knows is refused: a misspelt filter would show, or
delete, what it was to leave out."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from gateway.store.timelines import Place, Selection
from gateway.summary import DAY_NS, Window, whole_rows
from gateway.timeline import SECOND, Outcome
from gateway.wire.fields import Id, Moment, unix_nanoseconds

PAGE_TRACES = 100
PAGE_MAX_TRACES = 1_000
LONGEST_SECONDS = 9e9
"""More than any trace can take, and what 64 bits can hold in nanoseconds: 285 years."""

BASELINE_AGE_NS = 7 * DAY_NS
"""What a window is compared with ends so long before it."""

_CURSOR = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,16})")
_SEALED = (Outcome.COMPLETED, Outcome.SUPERSEDED, Outcome.ABANDONED)


def cursor_of(place: Place) -> str:
    return f"{place.list_key:x}-{place.run_key:x}"


def _place_of(cursor: object) -> Place:
    match = _CURSOR.fullmatch(cursor) if isinstance(cursor, str) else None
    place = Place(*(int(part, 16) for part in match.groups())) if match else None
    if place is None or max(place.list_key, place.run_key) >= 2**63:
        raise PydanticCustomError("cursor", "Input should be a cursor from a Link header")
    return place


Cursor = Annotated[Place, BeforeValidator(_place_of), WithJsonSchema({"type": "string", "pattern": _CURSOR.pattern})]


class NoQuery(BaseModel):
    """No parameter at all."""

    model_config = ConfigDict(extra="forbid")


class TraceQuery(BaseModel):
    """Which traces, how many, and in which form."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    limit: int | None = Field(
        None,
        ge=1,
        le=PAGE_MAX_TRACES,
        description=f"Timelines of one answer. By default {PAGE_TRACES}; with `format` of `csv` or `ndjson`, and no "
        "`cursor`, all there are.",
        examples=[100],
    )
    cursor: Cursor | None = Field(
        None,
        description="Where the answer before ended: from its `Link` header.",
        examples=["1a2b3c4d5e6f7081-1a2b3c4d5e6f7080"],
    )
    outcome: Literal["completed", "superseded", "abandoned", "open", "all"] = Field(
        "completed",
        description="How they ended; `open` for those that have not, `all` for any.",
        examples=["completed"],
    )
    since: Moment | None = Field(
        None,
        description="Only those that ended then or later (open ones: began), by the gateway's clock.",
        examples=["2026-09-09T00:00:00Z"],
    )
    until: Moment | None = Field(
        None, description="Only those that ended (open ones: began) before.", examples=["2026-09-10T00:00:00Z"]
    )
    min_duration_seconds: float | None = Field(
        None, ge=0, le=LONGEST_SECONDS, allow_inf_nan=False, description="Only those that took as long.", examples=[1.5]
    )
    failed: bool | None = Field(None, description="Only those with an error, or only those without.", examples=[True])
    format: Literal["json", "csv", "ndjson"] = Field("json", description="The form of the answer.", examples=["json"])

    @field_validator("until")
    @classmethod
    def _after_since(cls, until: datetime | None, info: ValidationInfo) -> datetime | None:
        return after(info.data.get("since"), until)

    def selection(self, trace_tag: str, trace_id: str | None = None) -> Selection:
        everything = (*_SEALED, Outcome.OPEN)
        return Selection(
            trace_tag=trace_tag,
            trace_id=trace_id,
            outcomes=everything if self.outcome == "all" else (Outcome(self.outcome),),
            since_ns=unix_nanoseconds(self.since) if self.since else None,
            until_ns=unix_nanoseconds(self.until) if self.until else None,
            min_duration_ns=None if self.min_duration_seconds is None else round(self.min_duration_seconds * SECOND),
            failed=self.failed,
        )


class TagQuery(TraceQuery):
    """Which traces of a tag."""

    trace_id: Id | None = Field(
        None, description="Only those of this id; empty: only those without one.", examples=["42"]
    )


class IdQuery(TraceQuery):
    """Which traces under an id."""

    outcome: Literal["completed", "superseded", "abandoned", "open", "all"] = Field(
        "all", description="How they ended; `open` for those that have not, `all` for any.", examples=["all"]
    )


class EmptyWindow(Exception):
    """A window that ends before it begins; `field` is where it was said to begin."""

    def __init__(self, field: str) -> None:
        super().__init__("The beginning should be before the end")
        self.field = field


@dataclass(frozen=True, slots=True)
class Windows:
    """In whole rows."""

    window: Window
    baseline: Window
    """What it is compared with."""


class WindowQuery(BaseModel):
    """A window of time, by the gateway's clock."""

    model_config = ConfigDict(extra="forbid")

    since: Moment | None = Field(
        None, description="Its beginning; by default 24 hours before its end.", examples=["2026-09-09T00:00:00Z"]
    )
    until: Moment | None = Field(None, description="Its end; by default now.", examples=["2026-09-10T00:00:00Z"])

    @field_validator("until")
    @classmethod
    def _after_since(cls, until: datetime | None, info: ValidationInfo) -> datetime | None:
        return after(info.data.get("since"), until)

    def window(self, now_ns: int, length_ns: int = DAY_NS) -> Window:
        """In whole rows; `length_ns` long where its beginning is not said.

        Raises:
            EmptyWindow: it ends before it begins.
        """
        return whole_rows(_asked("since", self.since, self.until, now_ns, length_ns), now_ns)


class ComparisonQuery(WindowQuery):
    """Two windows, and what counts as slower."""

    baseline_since: Moment | None = Field(
        None,
        description="The beginning of the window to compare with; by default as long before its end as `since` is "
        "before `until`.",
        examples=["2026-09-02T00:00:00Z"],
    )
    baseline_until: Moment | None = Field(
        None, description="Its end; by default a week before `until`.", examples=["2026-09-03T00:00:00Z"]
    )
    max_increase_percent: float = Field(
        10.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="By how much the median or the 95th percentile may rise, in percent of the baseline.",
        examples=[10.0],
    )
    max_increase_seconds: float = Field(
        0.01,
        ge=0,
        le=LONGEST_SECONDS,
        allow_inf_nan=False,
        description="By how much they may rise, in seconds. A failure takes both.",
        examples=[0.01],
    )
    min_count: int = Field(
        30,
        ge=1,
        le=1_000_000_000,
        description="With fewer than this in either window, the verdict is `too few`.",
        examples=[30],
    )

    @field_validator("baseline_until")
    @classmethod
    def _after_baseline_since(cls, until: datetime | None, info: ValidationInfo) -> datetime | None:
        return after(info.data.get("baseline_since"), until)

    def windows(self, now_ns: int, length_ns: int = DAY_NS) -> Windows:
        """Both in whole rows; the window `length_ns` long where its beginning is not said.

        Raises:
            EmptyWindow: one of them ends before it begins.
        """
        asked = _asked("since", self.since, self.until, now_ns, length_ns)
        baseline = _asked(
            "baseline_since",
            self.baseline_since,
            self.baseline_until,
            asked.until_ns - BASELINE_AGE_NS,
            asked.until_ns - asked.since_ns,
        )
        return Windows(whole_rows(asked, now_ns), whole_rows(baseline, now_ns))


def _asked(field: str, since: datetime | None, until: datetime | None, default_until_ns: int, length_ns: int) -> Window:
    until_ns = default_until_ns if until is None else unix_nanoseconds(until)
    since_ns = until_ns - length_ns if since is None else unix_nanoseconds(since)
    if since_ns >= until_ns:
        raise EmptyWindow(field)
    return Window(since_ns, until_ns)


def after(since: datetime | None, until: datetime | None) -> datetime | None:
    """`until`, which must be after `since` where there are both."""
    if since is not None and until is not None and until <= since:
        raise PydanticCustomError("window", "The end should be after the beginning")
    return until
