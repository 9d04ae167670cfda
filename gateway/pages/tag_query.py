"""What the page of a tag can be asked: what the API can be asked of a tag, as far as a page shows it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.comparison import Thresholds
from gateway.store.timelines import Selection
from gateway.summary import DAY_NS, HOUR_NS, Window
from gateway.wire.queries import ComparisonQuery, EmptyWindow, TagQuery, Windows

Model = TypeVar("Model", bound=BaseModel)

WINDOW = ("since", "until")
LISTS = (*WINDOW, "outcome", "failed", "min_duration_seconds", "trace_id")
COMPARISON = tuple(ComparisonQuery.model_fields)

Last = Literal["hour", "day", "week"]
LENGTHS_NS: Mapping[Last, int] = {"hour": HOUR_NS, "day": DAY_NS, "week": 7 * DAY_NS}
"""A window that moves with the time."""


class PageQuery(BaseModel):
    """What only the page can be asked."""

    model_config = ConfigDict(extra="forbid")

    last: Last = Field("day", description="How long before its end the window begins, where `since` does not say.")


class BadQuery(Exception):
    """Some of it cannot be used."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        """`problems` says of each field what is wrong with it."""
        super().__init__(problems)
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Asked:
    """A query that can be used."""

    given: Mapping[str, str]
    """As it was sent, without what was left blank."""
    comparison: ComparisonQuery
    lists: TagQuery
    last: Last

    @property
    def thresholds(self) -> Thresholds:
        query = self.comparison
        return Thresholds(query.max_increase_percent, query.max_increase_seconds, query.min_count)

    def windows(self, now_ns: int) -> Windows:
        """Raises BadQuery where one ends before it begins."""
        try:
            return self.comparison.windows(now_ns, LENGTHS_NS[self.last])
        except EmptyWindow as error:
            raise BadQuery({error.field: str(error)}) from None

    def selection(self, trace_tag: str, window: Window) -> Selection:
        """Which traces are listed: exactly since and until when was asked, else those of the whole rows."""
        selection = self.lists.selection(trace_tag, self.lists.trace_id)
        since_ns, until_ns = selection.since_ns, selection.until_ns
        return replace(
            selection,
            since_ns=window.since_ns if since_ns is None else since_ns,
            until_ns=window.until_ns if until_ns is None else until_ns,
        )


def parse(sent: Mapping[str, str], now_ns: int) -> Asked:
    """What was asked, at this time. A field that was left blank in a form is one that was not asked for.

    Raises:
        BadQuery: it cannot be used.
    """
    known = {*LISTS, *COMPARISON, *PageQuery.model_fields}
    given = {name: value for name, value in sent.items() if value or name not in known}
    problems: dict[str, str] = {}
    comparison = _validated(ComparisonQuery, given, COMPARISON, problems)
    lists = _validated(TagQuery, given, LISTS, problems)
    page = _validated(PageQuery, given, given.keys() - {*LISTS, *COMPARISON}, problems)
    if comparison is None or lists is None or page is None:
        raise BadQuery(problems)
    asked = Asked(given, comparison, lists, page.last)
    asked.windows(now_ns)
    return asked


def _validated(
    model: type[Model], given: Mapping[str, str], names: Iterable[str], problems: dict[str, str]
) -> Model | None:
    try:
        return model.model_validate({name: given[name] for name in names if name in given})
    except ValidationError as error:
        problems |= {str(problem["loc"][0]): problem["msg"] for problem in error.errors()}
        return None
