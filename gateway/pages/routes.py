"""The routes of the pages."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.assets import Asset
from gateway.api.paths import SEGMENT
from gateway.errors import Unavailable
from gateway.pages.live import LivePages
from gateway.pages.overview import OverviewPage
from gateway.pages.overview_facts import Collector
from gateway.pages.site import Site
from gateway.pages.tag import TagPage
from gateway.pages.trace import TracePage
from gateway.store.engine import Database

_TAG = "/tags/{trace_tag:" + SEGMENT + "}"
_TRACE = "/traces/{trace_tag:" + SEGMENT + "}/{trace_name:" + SEGMENT + "}"

Answer = Callable[[Request], Awaitable[Response]]


def routes(
    database: Database, files: Mapping[str, Asset], collector: Collector, *, jaeger_url: str | None
) -> list[Route]:
    """The overview, the page of a tag, and the page of a trace."""
    site = Site(files)
    live = LivePages(database)
    return [
        Route("/", _or_unavailable(site, OverviewPage(site, live, collector).answer)),
        Route(_TAG, _or_unavailable(site, TagPage(site, live).answer)),
        Route(_TRACE, _or_unavailable(site, TracePage(site, live, jaeger_url=jaeger_url).answer)),
    ]


def _or_unavailable(site: Site, answer: Answer) -> Answer:
    """People get a page where programs would get JSON."""

    async def answer_or_say_why_not(request: Request) -> Response:
        try:
            return await answer(request)
        except Unavailable as error:
            problem = site.problem("Not now", [error.message], 503)
            problem.headers["Retry-After"] = str(error.retry_after_seconds)
            return problem

    return answer_or_say_why_not
