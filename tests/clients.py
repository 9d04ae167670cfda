"""The simplest client there is, for tests."""

from typing import Any
from urllib.parse import quote

import httpx

from tests.processes import PATIENCE_SECONDS


class Client(httpx.Client):
    """Says start, step, end; insists on being acknowledged."""

    def __init__(self, url: str) -> None:
        super().__init__(base_url=url, timeout=PATIENCE_SECONDS)

    def say(self, verb: str, trace_tag: str, trace_id: str | None = None, **fields: Any) -> dict[str, Any]:
        """The acknowledgement of one event."""
        body = {"trace_tag": trace_tag, "trace_id": trace_id, **fields}
        answer = self.post(f"/api/tracing/{verb}", json=body)
        assert answer.status_code == 200, answer.text
        acknowledged: dict[str, Any] = answer.json()
        return acknowledged

    def whole_trace(self, trace_tag: str, trace_id: str | None = None, steps: int = 2) -> dict[str, Any]:
        """A trace from start to end; the acknowledgement of its end."""
        self.say("start", trace_tag, trace_id)
        for number in range(steps):
            self.say("step", trace_tag, trace_id, step_name=f"step-{number}")
        return self.say("end", trace_tag, trace_id)

    def timelines(self, trace_tag: str) -> list[dict[str, Any]]:
        answer = self.get(f"/api/traces/{quote(trace_tag, safe='')}")
        assert answer.status_code == 200, answer.text
        listed: list[dict[str, Any]] = answer.json()
        return listed

    def receipts(self, trace_tag: str) -> list[dict[str, Any]]:
        return [timeline["delivery"] for timeline in self.timelines(trace_tag)]
