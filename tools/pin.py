"""Pins every package this project is developed, tested and shipped with to its newest compatible version.

    uv run python tools/pin.py

It writes the versions to `[tool.uv]` in pyproject.toml, where uv finds them whatever index it asks, and for the
container image, with hashes, to requirements.txt and requirements-build.txt. `uv.lock` is not committed: it names the
index of whoever wrote it.
"""

import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import tomlkit

ROOT = Path(__file__).parent.parent
PYPROJECT = ROOT / "pyproject.toml"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        resolved = newest_versions(Path(folder))
        build = compile_build_requirements(Path(folder))
    write_constraints(resolved, requirement_lines(build))
    uv("lock")
    (ROOT / "requirements-build.txt").write_text(build)
    (ROOT / "requirements.txt").write_text(
        uv("export", "--frozen", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate")
    )
    print(f"{len(resolved)} packages pinned; `uv sync` installs them")


def newest_versions(folder: Path) -> list[str]:
    """`name==version` of every package that the project resolves to when nothing is pinned, resolved in `folder`."""
    project = tomlkit.parse(PYPROJECT.read_text())
    settings = project["tool"]["uv"]
    settings.pop("constraint-dependencies", None)
    (folder / "pyproject.toml").write_text(tomlkit.dumps(project))
    # One version of a package for all versions of Python, because a pin is one version.
    uv("lock", "--directory", str(folder), "--fork-strategy", "fewest")
    locked = tomllib.loads((folder / "uv.lock").read_text())["package"]
    packages = [package for package in locked if "registry" in package["source"]]
    times = Counter(package["name"] for package in packages)
    if several := [name for name, count in times.items() if count > 1]:
        sys.exit(f"These resolve to several versions, of which none can be pinned: {', '.join(several)}")
    return [f"{package['name']}=={package['version']}" for package in packages]


def compile_build_requirements(folder: Path) -> str:
    """What builds the project's wheel, as pinned requirements with hashes."""
    source = folder / "build.in"
    source.write_text("\n".join(tomllib.loads(PYPROJECT.read_text())["build-system"]["requires"]))
    return uv("pip", "compile", "--universal", "--generate-hashes", "--no-header", "--no-annotate", str(source))


def requirement_lines(requirements: str) -> Iterable[str]:
    """The `name==version` of each requirement in the text of a requirements file."""
    return [line.split()[0] for line in requirements.splitlines() if "==" in line and not line.startswith((" ", "#"))]


def write_constraints(resolved: Iterable[str], build: Iterable[str]) -> None:
    """Write the pins to pyproject.toml, and leave the rest of it alone."""
    project = tomlkit.parse(PYPROJECT.read_text())
    settings = project["tool"]["uv"]
    for key, pins in (("constraint-dependencies", resolved), ("build-constraint-dependencies", build)):
        array = tomlkit.array()
        array.extend(pins)
        settings[key] = array.multiline(True)
    PYPROJECT.write_text(tomlkit.dumps(project))


def uv(*arguments: str) -> str:
    """What uv prints when run with `arguments` in the project."""
    command = ["uv", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603


if __name__ == "__main__":
    main()
