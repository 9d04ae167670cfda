"""Durations, counts and shares as people read them. Pure."""

from math import floor, log10

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def duration(seconds: float | None) -> str:
    """About three digits, in the unit that suits: `350 µs`, `12.3 ms`, `1.24 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.

    `–` where there is none.
    """
    if seconds is None:
        return "–"
    if seconds < 0:
        return f"−{duration(-seconds)}"
    if seconds == 0:
        return "0 s"
    if seconds < 0.9995e-3:
        return f"{_digits(seconds * 1e6)} µs"
    if seconds < 0.9995:
        return f"{_digits(seconds * 1e3)} ms"
    if seconds < 59.95:
        return f"{_digits(seconds)} s"
    whole = round(seconds)
    if whole < _HOUR:
        return _two(whole, _MINUTE, "min", 1, "s")
    if whole < _DAY:
        return _two(whole, _HOUR, "h", _MINUTE, "min")
    return _two(whole, _DAY, "d", _HOUR, "h")


def count(number: int) -> str:
    """With a thin space between thousands: `12 345`."""
    return f"{number:,}".replace(",", "\u202f")


def percent(share: float | None) -> str:
    """Of a share between 0 and 1, or of a change: `0.4 %`, `37 %`; `–` where there is none."""
    if share is None:
        return "–"
    if share and abs(share) < 0.001:
        return "< 0.1 %" if share > 0 else "> −0.1 %"
    return f"{_digits(share * 100, 2)} %".replace("-", "−")


def _digits(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, and no more than it needs."""
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    # Never in scientific notation, which a mean of next to nothing would be in.
    decimals = digits - 1 - floor(log10(abs(value))) if value else 0
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _two(whole: int, unit: int, name: str, smaller: int, smaller_name: str) -> str:
    big, rest = divmod(whole, unit)
    small = rest // smaller
    return f"{big} {name} {small} {smaller_name}" if small else f"{big} {name}"
