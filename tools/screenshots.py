"""Draws the pictures of the README anew, from traffic of the last days.

    uv run python -m tools.screenshots

Needs Chromium (on Debian: apt-get install chromium) and the development dependencies.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import sync_playwright

from bench.population import populate
from tests.processes import ROOT, Gateway

IMAGES = ROOT / "docs" / "images"
TAGS = ("checkout", "search", "sign-up", "product-page", "add-to-cart", "password-reset")
WIDTH, HEIGHT = 1200, 860

STEPS: list[tuple[str, int, dict[str, Any]]] = [
    ("cart", 321, {"attributes": {"cart.items": 3, "cart.value": 74.9}}),
    ("wait-for-user", 2_140, {"track_duration": False}),
    ("address", 264, {}),
    ("payment", 1_130, {"error": {"type": "PaymentDeclined", "message": "The bank asks for a second factor"}}),
    ("payment", 610, {}),
    ("confirmation", 148, {}),
]
"""Name, milliseconds, and whatever else there is to say."""


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        populate(Path(folder) / "perf-tracer.db", 40_000, tags=TAGS)
        gateway = Gateway(Path(folder))
        try:
            tell(gateway.url)
            draw(gateway.url)
        finally:
            gateway.stop()


def tell(url: str) -> None:
    """A trace with some of everything."""
    at_ms = time.time() * 1000 - 5_000
    events: list[dict[str, Any]] = [{"seq": 0, "type": "start", "time": at_ms}]
    for seq, (name, milliseconds, rest) in enumerate(STEPS, start=1):
        at_ms += milliseconds
        events.append({"seq": seq, "type": "step", "step_name": name, "time": at_ms, **rest})
    events.append({"seq": len(events), "type": "end", "time": at_ms + 12, "attributes": {"customer.kind": "guest"}})
    trace = {"trace_tag": "checkout", "trace_id": "42", "service": "web-shop", "events": events}
    httpx.post(f"{url}/api/tracing/batch", json={"traces": [trace]}).raise_for_status()


def draw(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", timezone_id="UTC")
        page.goto(f"{url}/tags/checkout")
        page.screenshot(path=IMAGES / "tag.png")
        page.goto(f"{url}/traces/checkout/42")
        page.screenshot(path=IMAGES / "trace.png")
        browser.close()


if __name__ == "__main__":
    main()
