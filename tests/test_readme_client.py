"""The README's two ways to load the client, run as they stand."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser import Site
from tests.clients import Client
from tests.processes import ROOT, Gateway
from tests.waiting import wait_until

README = (ROOT / "README.md").read_text()
[PAGE] = re.findall(r"<!-- page.*?-->\n```html\n(.*?)```", README, re.DOTALL)
[(INSTALL, SCRIPT)] = re.findall(r"<!-- npm.*?-->\n```sh\n(.*?)```\n+```js\n(.*?)```", README, re.DOTALL)


def test_script_tag_of_the_readme_makes_a_trace(gateway: Gateway, page: Page) -> None:
    with Site({"/": "<!doctype html>" + PAGE.replace("http://localhost:8000", gateway.url)}) as site:
        page.goto(site.url)
        with Client(gateway.url) as client:
            wait_until(lambda: client.timelines("checkout") != [])
            [timeline] = client.timelines("checkout")

    assert timeline["trace_id"] == "42"
    assert [step["step_name"] for step in timeline["steps"]] == ["cart"]


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node 20 or newer with npm")
def test_package_of_the_readme_makes_a_trace(gateway: Gateway, tmp_path: Path) -> None:
    install = INSTALL.replace("./perf-tracer", str(clone_without_dependencies(tmp_path)))
    assert install != INSTALL
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "shop.js").write_text(SCRIPT.replace("http://localhost:8000", gateway.url))
    for command in (install.split(), ["node", "shop.js"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    with Client(gateway.url) as client:
        [timeline] = client.timelines("checkout")

    assert timeline["service"] == "web-shop"
    assert [step["step_name"] for step in timeline["steps"]] == ["cart"]
    assert timeline["steps"][0]["attributes"] == {"cart.items": 3}


def clone_without_dependencies(folder: Path) -> Path:
    """The package as it is in a fresh clone."""
    clone = folder / "perf-tracer"
    shutil.copytree(ROOT / "gateway" / "static", clone / "gateway" / "static")
    shutil.copy(ROOT / "package.json", clone)
    return clone
