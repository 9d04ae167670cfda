"""Whether something is slower than before."""

from math import inf, nextafter

import pytest

from gateway.comparison import Change, Comparison, Thresholds, Verdict, compare, overall
from gateway.summary import Durations, Tally, durations_of
from gateway.timeline import SECOND

PASS, FAIL, TOO_FEW = Verdict.PASS, Verdict.FAIL, Verdict.TOO_FEW
STRICT = Thresholds(percent=10, seconds=0.1, min_count=1)


def tally_of(*seconds: float, times: int = 1) -> Tally:
    tally = Tally()
    for duration in seconds:
        tally.count_duration(round(duration * SECOND), failed=False, times=times)
    return tally


def spread(most: float, some: float) -> Tally:
    """The median is `most`, the 95th percentile is `some`."""
    return tally_of(*[most] * 9, some)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        pytest.param(1, 2, FAIL, id="more than both"),
        pytest.param(0.005, 0.01, PASS, id="more in proportion only"),
        pytest.param(600, 630, PASS, id="more in seconds only"),
        pytest.param(1, 1, PASS, id="the same"),
        pytest.param(2, 1, PASS, id="faster"),
        pytest.param(0, 0, PASS, id="no time at all, as before"),
        pytest.param(0, 0.05, PASS, id="little instead of no time at all"),
        pytest.param(0, 1, FAIL, id="much instead of no time at all"),
        pytest.param(1, 0, PASS, id="no time at all instead"),
    ],
)
def test_slower_is_what_takes_longer_by_more_than_both_thresholds(
    before: float, after: float, verdict: Verdict
) -> None:
    assert compare(tally_of(before), tally_of(after), STRICT).verdict is verdict


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        pytest.param(spread(1, 10), PASS, id="neither"),
        pytest.param(spread(2, 10), FAIL, id="median"),
        pytest.param(spread(1, 20), FAIL, id="95th percentile"),
        pytest.param(spread(0.5, 20), FAIL, id="95th percentile of what is faster otherwise"),
        pytest.param(spread(1.08, 10.8), PASS, id="one more in seconds only, the other in nothing"),
    ],
)
def test_median_or_95th_percentile_is_enough(now: Tally, verdict: Verdict) -> None:
    assert compare(spread(1, 10), now, STRICT).verdict is verdict


def test_both_thresholds_are_exceeded_by_the_same_percentile() -> None:
    compared = compare(spread(0.01, 100), spread(0.02, 101.5), STRICT)

    assert compared.p50.percent is not None
    assert compared.p50.percent > STRICT.percent
    assert compared.p95.seconds is not None
    assert compared.p95.seconds > STRICT.seconds
    assert compared.verdict is PASS


def test_as_much_as_a_threshold_is_not_more() -> None:
    before, now = tally_of(1), tally_of(2)
    change = compare(before, now, STRICT).p50
    assert change.percent is not None
    assert change.seconds is not None

    less = Thresholds(nextafter(change.percent, 0), nextafter(change.seconds, 0), min_count=1)
    assert compare(before, now, less).verdict is FAIL
    assert compare(before, now, Thresholds(change.percent, less.seconds, min_count=1)).verdict is PASS
    assert compare(before, now, Thresholds(less.percent, change.seconds, min_count=1)).verdict is PASS


def test_change_is_from_the_baseline_to_now() -> None:
    before, now = spread(1, 10), spread(2, 5)
    compared = compare(before, now, STRICT)

    assert (compared.baseline, compared.durations) == (durations_of(before), durations_of(now))
    assert compared.p50.seconds == pytest.approx(1, rel=0.03)
    assert compared.p50.percent == pytest.approx(100, rel=0.03)
    assert compared.p95.seconds == pytest.approx(-5, rel=0.03)
    assert compared.p95.percent == pytest.approx(-50, rel=0.03)


def test_change_from_no_time_at_all_is_no_percentage() -> None:
    compared = compare(tally_of(0), tally_of(1), STRICT)

    assert compared.p50.seconds == pytest.approx(1, rel=0.011)
    assert compared.p50.percent is None


@pytest.mark.parametrize(
    ("before", "now", "verdict"), [(30, 30, FAIL), (29, 30, TOO_FEW), (30, 29, TOO_FEW), (0, 30, TOO_FEW)]
)
def test_there_is_a_verdict_from_the_smallest_count_on(before: int, now: int, verdict: Verdict) -> None:
    thresholds = Thresholds(percent=10, seconds=0.1, min_count=30)
    compared = compare(tally_of(1, times=before), tally_of(2, times=now), thresholds)

    assert (compared.verdict, compared.baseline_count, compared.count) == (verdict, before, now)


@pytest.mark.parametrize(("min_count", "verdict"), [(1, TOO_FEW), (0, PASS)])
@pytest.mark.parametrize("known_before", [True, False])
def test_step_in_one_window_only_has_not_changed(known_before: bool, min_count: int, verdict: Verdict) -> None:
    windows = (tally_of(1), Tally()) if known_before else (Tally(), tally_of(1))
    compared = compare(*windows, Thresholds(percent=0, seconds=0, min_count=min_count))

    assert compared.verdict is verdict
    assert compared.p50 == compared.p95 == Change(None, None)
    assert (compared.baseline_count, compared.count) == ((1, 0) if known_before else (0, 1))


@pytest.mark.parametrize(
    ("whole", "steps", "verdict"),
    [
        (PASS, [], PASS),
        (FAIL, [], FAIL),
        (TOO_FEW, [], TOO_FEW),
        (PASS, [PASS, TOO_FEW], PASS),
        (PASS, [PASS, FAIL], FAIL),
        (FAIL, [PASS, TOO_FEW], FAIL),
        (TOO_FEW, [PASS, TOO_FEW], TOO_FEW),
        (TOO_FEW, [FAIL, TOO_FEW], FAIL),
    ],
)
def test_one_failure_fails_all_and_seldom_steps_keep_nothing_back(
    whole: Verdict, steps: list[Verdict], verdict: Verdict
) -> None:
    assert overall(with_verdict(whole), [with_verdict(step) for step in steps]) is verdict


def test_infinite_threshold_is_never_exceeded() -> None:
    assert compare(tally_of(0), tally_of(1), Thresholds(percent=0, seconds=inf, min_count=1)).verdict is PASS


def with_verdict(verdict: Verdict) -> Comparison:
    return Comparison(verdict, 0, 0, Durations(), Durations(), Change(None, None), Change(None, None))
