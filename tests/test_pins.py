"""What is installed is what was tested: every package at one version, wherever it is installed from."""

import re
import subprocess
import tomllib
from importlib.metadata import distributions
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.processes import ROOT

PIN = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ;]+)")
# Present in many environments, and no part of this one.
INSTALLERS = {"pip", "setuptools", "wheel", "uv"}


def test_every_package_of_the_lock_is_pinned() -> None:
    """Transitive packages and those of developers too; uv reads no lock here that is not in line with the pins."""
    subprocess.run(["uv", "lock", "--check", "--offline"], cwd=ROOT, check=True)
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    locked = {package["name"]: package["version"] for package in packages if "registry" in package["source"]}

    assert locked
    assert pins("constraint-dependencies") == locked


def test_every_installed_package_is_the_pinned_one() -> None:
    installed = {canonicalize_name(package.name): package.version for package in distributions()}
    expected = pins("constraint-dependencies")

    for name in installed.keys() - INSTALLERS - {"perf-tracer"}:
        assert installed[name] == expected.get(name), f"{name}: run `uv run python tools/pin.py`"


def test_the_image_installs_the_pinned_versions() -> None:
    requirements = pinned_with_hashes("requirements.txt")
    expected = pins("constraint-dependencies")
    direct = {canonicalize_name(Requirement(line).name) for line in pyproject()["project"]["dependencies"]}

    assert direct <= requirements.keys()
    assert requirements.items() <= expected.items()


def test_the_image_is_built_with_the_pinned_backend() -> None:
    assert pinned_with_hashes("requirements-build.txt") == pins("build-constraint-dependencies")


def test_pins_name_no_address() -> None:
    """An index, a mirror or a folder of one machine would not be there on another."""
    texts = {name: (ROOT / name).read_text() for name in ("requirements.txt", "requirements-build.txt")}
    texts["pyproject.toml"] = str(pyproject()["tool"]["uv"])

    for name, text in texts.items():
        assert not re.search(r"://|file:|index|find-links", text), name


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(key: str) -> dict[str, str]:
    """The versions that `[tool.uv]` pins under `key`, by name."""
    matches = [PIN.fullmatch(line) for line in pyproject()["tool"]["uv"][key]]

    assert all(matches), f"{key} holds more than exact versions"
    return {match["name"]: match["version"] for match in matches if match}


def pinned_with_hashes(file: str) -> dict[str, str]:
    """The versions that a requirements file pins, by name."""
    found = {}
    for requirement in (ROOT / file).read_text().replace("\\\n", " ").splitlines():
        match = PIN.match(requirement)

        assert match, requirement
        assert "--hash=sha256:" in requirement, requirement
        found[match["name"]] = match["version"]
    return found
