"""Is it slower than before? Two summaries next to each other, and a verdict. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.summary import WHOLE_TRACE, Durations, Tally, durations_of


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    TOO_FEW = "too few"
    """There are not enough of them, before or now, to say."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as slower. It takes both: 5 ms more of 5 ms are nothing, and so is 1 % more of ten minutes."""

    percent: float
    seconds: float
    min_count: int
    """With fewer than this in either window there is no verdict."""


@dataclass(frozen=True, slots=True)
class Change:
    """Of one percentile, from the baseline to now; None where one of the two is not there."""

    seconds: float | None
    percent: float | None
    """None also where the baseline took no time at all."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of a trace as a whole, or of one step."""

    verdict: Verdict
    baseline_count: int
    count: int
    baseline: Durations
    durations: Durations
    p50: Change
    p95: Change


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Of a tag: the traces as a whole, and every step that either window has, by name."""

    verdict: Verdict
    whole: Comparison
    steps: dict[str, Comparison]


def compare_all(baseline: Mapping[str, Tally], now: Mapping[str, Tally], thresholds: Thresholds) -> Comparisons:
    """Compare what two windows counted of a tag, as `WHOLE_TRACE` and by step name."""
    compared = {
        name: compare(baseline.get(name, Tally()), now.get(name, Tally()), thresholds)
        for name in sorted({WHOLE_TRACE, *baseline, *now})
    }
    whole = compared.pop(WHOLE_TRACE)
    steps = {name: step for name, step in compared.items() if step.count or step.baseline_count}
    return Comparisons(overall(whole, list(steps.values())), whole, steps)


def compare(baseline: Tally, now: Tally, thresholds: Thresholds) -> Comparison:
    """Fails where the median or the 95th percentile has risen by more than both thresholds."""
    before, after = durations_of(baseline), durations_of(now)
    p50, p95 = _change(before.p50, after.p50), _change(before.p95, after.p95)
    if min(baseline.count, now.count) < thresholds.min_count:
        verdict = Verdict.TOO_FEW
    elif _is_slower(p50, thresholds) or _is_slower(p95, thresholds):
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.PASS
    return Comparison(verdict, baseline.count, now.count, before, after, p50, p95)


def overall(whole: Comparison, steps: list[Comparison]) -> Verdict:
    """One word for all of them: a failure anywhere is one; steps that are seldom taken do not keep the rest back."""
    if any(step.verdict is Verdict.FAIL for step in steps):
        return Verdict.FAIL
    return whole.verdict


def _change(before: float | None, after: float | None) -> Change:
    if before is None or after is None:
        return Change(None, None)
    return Change(after - before, (after - before) / before * 100 if before else None)


def _is_slower(change: Change, thresholds: Thresholds) -> bool:
    if change.seconds is None:
        return False
    # Compared with no time at all, any time is more than any percentage.
    more_in_proportion = change.percent is None or change.percent > thresholds.percent
    return change.seconds > thresholds.seconds and more_in_proportion
