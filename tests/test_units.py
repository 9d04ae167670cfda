"""Durations, counts and shares as people read them."""

import pytest

from gateway.pages import units

DAY = 86_400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0, "0 s"),
        (1e-12, "0.000001 µs"),
        (1e-6, "1 µs"),
        (1.5e-6, "1.5 µs"),
        (0.00035, "350 µs"),
        (0.0009994, "999 µs"),
        (0.0009996, "1 ms"),
        (0.00999, "9.99 ms"),
        (0.009999, "10 ms"),
        (0.01234, "12.3 ms"),
        (0.1, "100 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (1.235, "1.24 s"),
        (59.94, "59.9 s"),
        (59.95, "1 min"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (200, "3 min 20 s"),
        (3_599.4, "59 min 59 s"),
        (3_599.6, "1 h"),
        (3_659, "1 h"),
        (7_500, "2 h 5 min"),
        (DAY - 1, "23 h 59 min"),
        (DAY, "1 d"),
        (3 * DAY + 4 * 3_600, "3 d 4 h"),
        (1e9, "11574 d 1 h"),
        (-0.25, "−250 ms"),
        (-200, "−3 min 20 s"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (12_345, "12\u202f345"), (1_234_567, "1\u202f234\u202f567")]
)
def test_count(number: int, text: str) -> None:
    assert units.count(number) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "–"),
        (0.0, "0 %"),
        (0.0004, "< 0.1 %"),
        (-0.0004, "> −0.1 %"),
        (0.004, "0.4 %"),
        (0.0994, "9.9 %"),
        (0.0996, "10 %"),
        (0.374, "37 %"),
        (1.0, "100 %"),
        (12.5, "1250 %"),
        (-0.25, "−25 %"),
    ],
)
def test_percent(share: float | None, text: str) -> None:
    assert units.percent(share) == text
