"""What all pages have in common: their frame, how they write values, the addresses they link to."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import Response

from gateway.api.answers import rfc3339
from gateway.api.assets import Asset
from gateway.pages import charts, units
from gateway.pages.overview_facts import OPEN_COUNTED_MAX
from gateway.timeline import Trace

HEADERS = {
    # No script but ours, nothing loaded from elsewhere, nothing written into the page runs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Site:
    """The templates, and what is in `files` for them to refer to."""

    def __init__(self, files: Mapping[str, Asset]) -> None:
        self._templates = Environment(
            loader=PackageLoader("gateway.pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters.update(
            age=age,
            count=units.count,
            duration=units.duration,
            duration_ns=lambda duration_ns: units.duration(None if duration_ns is None else duration_ns / 1e9),
            moment=moment,
            percent=units.percent,
            spark=charts.spark,
        )
        self._templates.globals.update(
            asset=lambda name: files[name].path_of_this_version,
            open_counted_max=OPEN_COUNTED_MAX,
            tag_path=tag_path,
            trace_page=trace_page,
        )

    def render(self, template: str, context: Mapping[str, Any]) -> str:
        html: str = self._templates.get_template(template).render(context)
        return html

    def answer(self, template: str, context: Mapping[str, Any], status: int) -> Response:
        """A page that nobody waits for news on."""
        body = self.render(template, context)
        return Response(body, status, {**HEADERS, "Cache-Control": "no-store"}, "text/html; charset=utf-8")

    def problem(self, heading: str, lines: Sequence[str], status: int) -> Response:
        """A page that says why there is no other."""
        return self.answer("problem.html", {"heading": heading, "lines": lines}, status)


def moment(at_ns: int | None) -> str:
    """A moment to the second in UTC, exactly on hover; the script shows it in the zone of whoever looks."""
    if at_ns is None:
        return "–"
    exact = rfc3339(at_ns)
    return Markup('<time datetime="{}" title="{}">{} UTC</time>').format(exact, exact, exact[:19].replace("T", " "))


def age(since_ns: int, now_ns: int) -> str:
    """How long ago a moment was; the script counts on."""
    seconds = max(0, now_ns - since_ns) // 10**9
    return Markup('<time class="age" datetime="{}" title="since {}">{}</time>').format(
        rfc3339(since_ns), rfc3339(since_ns), units.duration(seconds)
    )


def tag_path(trace_tag: str, **query: str) -> str:
    """The page of a tag, asked with these parameters."""
    return f"/tags/{quote(trace_tag, safe='')}" + (f"?{urlencode(query)}" if query else "")


def trace_page(trace: Trace) -> str:
    """The page of this very trace; what its path names it by is its id, else its run, else its OpenTelemetry id."""
    name = trace.trace_id or trace.run or trace.otel_trace_id or "-"
    return f"/traces/{quote(trace.trace_tag, safe='')}/{quote(name, safe='')}?trace={trace.run_key:x}"
