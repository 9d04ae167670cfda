"""The recorded exchanges of today's users, replayed over HTTP against a running gateway."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import Gateway

RECORDED = json.loads((Path(__file__).parent / "contract" / "seed-interactions.json").read_text())


@pytest.mark.parametrize("recording", RECORDED, ids=[recording["name"] for recording in RECORDED])
def test_recorded_exchange_is_answered_as_it_was(recording: dict[str, Any], gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.url) as client:
        for call in recording["calls"]:
            request, expected = call["request"], call["response"]
            answer = client.request(request["method"], request["path"], json=request.get("json"))

            assert answer.status_code == expected["status"], answer.text
            if "json" in expected:
                assert_matches(answer.json(), expected["json"])
            else:
                assert answer.content == b""


def assert_matches(actual: Any, expected: Any, path: str = "$") -> None:
    """Fields may have been added; none may be gone, renamed, of another type, or of another value."""
    if expected == "<time>":
        assert datetime.fromisoformat(actual).utcoffset() == timedelta(0), path
        assert len(actual) == len("2026-09-10T00:26:40.321400Z"), path
    elif expected == "<seconds>":
        assert type(actual) is float, path
        assert actual >= 0, path
    elif isinstance(expected, dict) and expected:
        assert isinstance(actual, dict), path
        assert expected.keys() <= actual.keys(), path
        for key in expected:
            assert_matches(actual[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, list):
        assert isinstance(actual, list), path
        assert len(actual) == len(expected), path
        for index, item in enumerate(expected):
            assert_matches(actual[index], item, f"{path}[{index}]")
    else:
        assert actual == expected, path
        assert type(actual) is type(expected), path
