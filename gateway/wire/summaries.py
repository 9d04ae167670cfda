"""Summaries and comparisons, as they are answered."""

from datetime import datetime

from pydantic import BaseModel, Field

from gateway.comparison import Verdict

_TRACE_TAG = Field(description="What was traced.", examples=["checkout"])
_SINCE = Field(
    description="The beginning of the window, rounded down to what can be told apart: hours, and days (UTC) where "
    "they are more than a week ago.",
    examples=["2026-09-09T00:00:00.000000Z"],
)
_UNTIL = Field(description="Its end, rounded up likewise.", examples=["2026-09-10T00:00:00.000000Z"])
_RELATIVE_ERROR = Field(
    description="How far off a percentile may be, in proportion. `min` and `max` are bounds; `mean` is exact.",
    examples=[0.01083],
)
_DURATIONS = {"min": 0.101, "mean": 0.52, "p50": 0.5, "p90": 0.8, "p95": 0.91, "p99": 1.4, "max": 2.04}


class DurationSummary(BaseModel):
    """In seconds; all null where nothing was counted."""

    min: float | None = Field(description="None was shorter.", examples=[0.101])
    mean: float | None = Field(description="The arithmetic mean.", examples=[0.52])
    p50: float | None = Field(description="The median, by nearest rank like the others.", examples=[0.5])
    p90: float | None = Field(description="The 90th percentile.", examples=[0.8])
    p95: float | None = Field(description="The 95th percentile.", examples=[0.91])
    p99: float | None = Field(description="The 99th percentile.", examples=[1.4])
    max: float | None = Field(description="None was longer.", examples=[2.04])


class StepSummary(BaseModel):
    step_name: str = Field(
        description="Which step. `(other)` stands for all beyond the first hundred names of a tag.", examples=["cart"]
    )
    count: int = Field(description="How many of them there were in completed traces.", examples=[1204])
    failed: int = Field(description="Those of them with an error.", examples=[3])
    duration_seconds: DurationSummary = Field(description="How long they took.", examples=[_DURATIONS])


class HistogramBucket(BaseModel):
    from_seconds: float = Field(description="All in it took longer than this.", examples=[0.5])
    to_seconds: float = Field(description="And at most this.", examples=[0.51095])
    count: int = Field(description="How many traces.", examples=[17])


class TagSummary(BaseModel):
    trace_tag: str = _TRACE_TAG
    since: datetime = _SINCE
    until: datetime = _UNTIL
    count: int = Field(description="Completed traces; the durations are theirs.", examples=[1204])
    failed: int = Field(description="Those of them with an error.", examples=[3])
    abandoned: int = Field(description="Traces of which nothing was heard any more.", examples=[2])
    superseded: int = Field(description="Traces that were started again before they had ended.", examples=[0])
    relative_error: float = _RELATIVE_ERROR
    duration_seconds: DurationSummary = Field(
        description="From start to end, untracked steps left out.", examples=[_DURATIONS]
    )


class Summary(TagSummary):
    steps: list[StepSummary] = Field(
        description="By name.",
        examples=[[{"step_name": "cart", "count": 1204, "failed": 3, "duration_seconds": _DURATIONS}]],
    )
    histogram: list[HistogramBucket] = Field(
        description="How the durations are distributed, shortest first; what is missing is empty.",
        examples=[[{"from_seconds": 0.5, "to_seconds": 0.51095, "count": 17}]],
    )


class ComparedWindow(BaseModel):
    since: datetime = _SINCE
    until: datetime = _UNTIL
    count: int = Field(description="Completed traces.", examples=[1204])


class Change(BaseModel):
    """From the baseline; null where there was nothing to compare."""

    seconds: float | None = Field(description="In seconds; below zero is faster.", examples=[0.041])
    percent: float | None = Field(description="In percent of the baseline; null where that is zero.", examples=[8.2])


_CHANGE = {"seconds": 0.041, "percent": 8.2}


class _Compared(BaseModel):
    verdict: Verdict = Field(
        description="`fail`: the median or the 95th percentile rose by more than both thresholds. `too few`: there "
        "were not enough to say.",
        examples=["pass"],
    )
    baseline_count: int = Field(description="How many there were in the baseline.", examples=[1180])
    count: int = Field(description="How many there were in the window.", examples=[1204])
    baseline_duration_seconds: DurationSummary = Field(description="How long they took then.", examples=[_DURATIONS])
    duration_seconds: DurationSummary = Field(description="How long they took in the window.", examples=[_DURATIONS])
    p50_change: Change = Field(description="Of the median.", examples=[_CHANGE])
    p95_change: Change = Field(description="Of the 95th percentile.", examples=[_CHANGE])


class ComparedTrace(_Compared):
    """Traces from start to end."""


class ComparedStep(_Compared):
    step_name: str = Field(description="Which step.", examples=["cart"])


class AppliedThresholds(BaseModel):
    max_increase_percent: float = Field(description="A rise up to this passes.", examples=[10.0])
    max_increase_seconds: float = Field(description="So does one up to this.", examples=[0.01])
    min_count: int = Field(description="It takes so many to say.", examples=[30])


class ComparisonAnswer(BaseModel):
    trace_tag: str = _TRACE_TAG
    verdict: Verdict = Field(
        description="`fail` where the trace or any step failed; otherwise that of the trace as a whole.",
        examples=["pass"],
    )
    baseline: ComparedWindow = Field(
        description="What is compared with.",
        examples=[{"since": "2026-09-02T00:00:00.000000Z", "until": "2026-09-03T00:00:00.000000Z", "count": 1180}],
    )
    window: ComparedWindow = Field(
        description="What is compared.",
        examples=[{"since": "2026-09-09T00:00:00.000000Z", "until": "2026-09-10T00:00:00.000000Z", "count": 1204}],
    )
    thresholds: AppliedThresholds = Field(
        description="As they were asked for.",
        examples=[{"max_increase_percent": 10.0, "max_increase_seconds": 0.01, "min_count": 30}],
    )
    relative_error: float = _RELATIVE_ERROR
    trace: ComparedTrace = Field(
        description="From start to end.",
        examples=[
            {
                "verdict": "pass",
                "baseline_count": 1180,
                "count": 1204,
                "baseline_duration_seconds": _DURATIONS,
                "duration_seconds": _DURATIONS,
                "p50_change": _CHANGE,
                "p95_change": _CHANGE,
            }
        ],
    )
    steps: list[ComparedStep] = Field(
        description="By name; those of either window.",
        examples=[
            [
                {
                    "verdict": "pass",
                    "baseline_count": 1180,
                    "count": 1204,
                    "baseline_duration_seconds": _DURATIONS,
                    "duration_seconds": _DURATIONS,
                    "p50_change": _CHANGE,
                    "p95_change": _CHANGE,
                    "step_name": "cart",
                }
            ]
        ],
    )
