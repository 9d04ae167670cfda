"""The client as a package: its logic under Node, its size, its types, and whether people's blockers let it through."""

import gzip
import json
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import PATIENCE_SECONDS, ROOT, Gateway

CLIENT = ROOT / "gateway" / "static" / "perf-tracer.js"
MODULES = ROOT / "node_modules"
NODE_MAJOR_MIN = 20
FILE_TIMEOUT_MS = 120_000
MINIFIED_AND_COMPRESSED_MAX_BYTES = 2_000
SERVED_MAX_BYTES = 3_000

BLOCKLISTS = Path("/usr/share/chromium/extensions/ublock-origin/assets")
BLOCKLISTS_PACKAGE = "webext-ublock-origin-chromium"


def skip(reason: str) -> None:
    """Say what is missing; in CI, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module", autouse=True)
def node() -> None:
    """Node, and the packages that the repository names."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if not missing:
        version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout
        missing = [] if int(version.strip("v").split(".")[0]) >= NODE_MAJOR_MIN else [f"not {version.strip()}"]
    if missing or not (MODULES / ".bin" / "tsc").exists():
        skip(f"needs Node {NODE_MAJOR_MIN} or newer with its packages: npm ci")


def run(*command: str | Path, cwd: Path = ROOT, fed: str = "", npm_cache: Path | None = None) -> str:
    """What a command printed that ended well."""
    done = attempt(*command, cwd=cwd, fed=fed, npm_cache=npm_cache)
    assert done.returncode == 0, f"{[str(part) for part in command]}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def attempt(
    *command: str | Path, cwd: Path = ROOT, fed: str = "", npm_cache: Path | None = None
) -> subprocess.CompletedProcess[str]:
    offline = {"npm_config_offline": "true", "npm_config_update_notifier": "false", "npm_config_loglevel": "error"}
    cache = {"npm_config_cache": str(npm_cache)} if npm_cache else {}
    env = {**os.environ, **offline, **cache}
    return subprocess.run(command, cwd=cwd, env=env, input=fed, capture_output=True, text=True, timeout=300)


def test_logic_holds_under_node() -> None:
    files = sorted((ROOT / "tests" / "client").glob("*.test.js"))
    assert files

    done = attempt("node", "--test", f"--test-timeout={FILE_TIMEOUT_MS}", "--test-reporter=spec", *files)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_types_of_its_own_code_hold() -> None:
    run("npm", "run", "check")


def test_minified_and_compressed_it_has_two_thousand_bytes_at_most() -> None:
    options = "--module --ecma 2022 --mangle --compress passes=3"
    minified = run(MODULES / ".bin" / "terser", CLIENT, *options.split()).encode()

    assert len(gzip.compress(minified, 9)) <= MINIFIED_AND_COMPRESSED_MAX_BYTES
    assert b"RemoteTrace" in minified


def test_served_it_has_three_thousand_bytes_at_most(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    try:
        url, headers = f"{gateway.url}/perf-tracer.js", {"Accept-Encoding": "gzip"}
        with httpx.stream("GET", url, headers=headers, timeout=PATIENCE_SECONDS) as answer:
            body = b"".join(answer.iter_raw())
    finally:
        gateway.stop()

    assert answer.headers["content-encoding"] == "gzip"
    assert len(body) <= SERVED_MAX_BYTES
    assert gzip.decompress(body) == CLIENT.read_bytes()


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What npm makes of a fresh clone, whose packages are installed."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("package.json", "package-lock.json", "tsconfig.json", ".npmrc", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    for folder in ("gateway", "docs"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "node_modules").symlink_to(MODULES)
    run("npm", "pack", cwd=clone, npm_cache=clone / ".npm")
    [tarball] = clone.glob("*.tgz")
    return tarball


@pytest.fixture(scope="module")
def project(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that depends on nothing but the package, installed without a network."""
    project = tmp_path_factory.mktemp("project")
    (project / "package.json").write_text('{"private": true, "type": "module"}')
    run("npm", "install", "--ignore-scripts", tarball, cwd=project, npm_cache=project / ".npm")
    return project


def test_package_has_the_client_its_types_and_its_page_and_no_more(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        names = [name.removeprefix("package/") for name in archive.getnames()]

    assert sorted(names) == [
        "LICENSE",
        "README.md",
        "docs/client.md",
        "gateway/static/perf-tracer-page-load.js",
        "gateway/static/perf-tracer.js",
        "package.json",
        "types/perf-tracer-page-load.d.ts",
        "types/perf-tracer.d.ts",
    ]


def test_package_has_the_very_files_that_the_gateway_serves(project: Path) -> None:
    installed = project / "node_modules" / "perf-tracer" / "gateway" / "static"
    scripts = sorted(installed.iterdir())

    assert [script.name for script in scripts] == ["perf-tracer-page-load.js", "perf-tracer.js"]
    for script in scripts:
        assert script.read_bytes() == (CLIENT.parent / script.name).read_bytes()


def test_package_depends_on_nothing(project: Path) -> None:
    description = json.loads((project / "node_modules" / "perf-tracer" / "package.json").read_text())
    installed = [path.name for path in (project / "node_modules").iterdir() if not path.name.startswith(".")]

    assert installed == ["perf-tracer"]
    assert not description.keys() & {"dependencies", "peerDependencies", "optionalDependencies", "bin"}
    assert "install" not in " ".join(description["scripts"])


def test_node_imports_both_entries(project: Path) -> None:
    script = """
        import * as client from "perf-tracer";
        import * as pageLoad from "perf-tracer/page-load";
        console.log(JSON.stringify([client, pageLoad].map(Object.keys)));
    """

    assert json.loads(run("node", "--input-type=module", "--eval", script, cwd=project)) == [
        ["RemoteTrace"],
        ["tracePageLoad"],
    ]


def test_nothing_else_can_be_imported(project: Path) -> None:
    for name in ("perf-tracer/gateway/static/perf-tracer.js", "perf-tracer/package.json", "perf-tracer/types"):
        done = attempt("node", "--input-type=module", "--eval", f'import "{name}"', cwd=project)

        assert "ERR_PACKAGE_PATH_NOT_EXPORTED" in done.stderr, name


def test_bundlers_may_leave_out_what_is_not_used(project: Path) -> None:
    assert json.loads((project / "node_modules" / "perf-tracer" / "package.json").read_text())["sideEffects"] is False


RIGHT = """
import { RemoteTrace } from "perf-tracer";
import type { Details, EndDetails, StepDetails, TraceOptions } from "perf-tracer";
import { tracePageLoad } from "perf-tracer/page-load";

type IsAny<T> = 0 extends 1 & T ? true : false;

const options: TraceOptions = {
  id: 42,
  url: "https://traces.example.com",
  key: "pk-1",
  service: "web-shop",
  propagateTo: ["https://api.example.com/v1"],
};
const details: Details = { attributes: { "cart.items": 3, "cart.kinds": ["a", "b"] }, time: performance.now() };
const failed: EndDetails = { ...details, error: new Error("declined") };
const waited: StepDetails = { ...failed, track: false, end: true };

async function checkout(caught: unknown): Promise<string> {
  const trace = new RemoteTrace("checkout", options);
  await trace.start();
  await trace.start(details);
  await trace.step("cart");
  await trace.step("wait", waited);
  await trace.step("pay", { error: caught });
  await trace.end();
  await trace.end(failed);
  const flushed: Promise<void> = trace.flush();
  await flushed;
  const answer: Response = await trace.fetch("https://api.example.com/v1", { method: "POST", body: "{}" });
  await trace.fetch(new URL("https://api.example.com/v1"));
  await trace.fetch(new Request("https://api.example.com/v1"), { headers: { "x-one": "1" } });
  const typed: [IsAny<typeof trace>, IsAny<typeof trace.traceparent>, IsAny<Parameters<typeof trace.step>>] =
    [false, false, false];
  return `${trace.traceparent} ${answer.status} ${typed}`;
}

new RemoteTrace("no options");
new RemoteTrace("ids", { id: "42" });
new RemoteTrace("ids", { id: null });
tracePageLoad();
tracePageLoad("page-load");
tracePageLoad("page-load", { ...options, attributes: { "page.kind": "cart" } });
checkout("nothing");
"""

WRONG = """
import { RemoteTrace } from "perf-tracer";
import { Nothing } from "perf-tracer"; // wrong
import "perf-tracer/gateway/static/perf-tracer.js"; // wrong
import { tracePageLoad } from "perf-tracer/page-load";
const trace = new RemoteTrace("checkout");
new RemoteTrace(); // wrong
new RemoteTrace(42); // wrong
new RemoteTrace("checkout", { id: {} }); // wrong
new RemoteTrace("checkout", { URL: "https://traces.example.com" }); // wrong
new RemoteTrace("checkout", { propagateTo: "https://api.example.com" }); // wrong
trace.start("now"); // wrong
trace.start({ error: "too early" }); // wrong
trace.start({ attributes: "none" }); // wrong
trace.step(); // wrong
trace.step(42); // wrong
trace.step("cart", { track: "no" }); // wrong
trace.step("cart", { end: 1 }); // wrong
trace.step("cart", { time: "now" }); // wrong
trace.step("cart", { tracked: false }); // wrong
trace.end({ track: false }); // wrong
trace.fetch(); // wrong
trace.pause(); // wrong
trace.traceparent = "mine"; // wrong
tracePageLoad({ service: "web" }); // wrong
tracePageLoad("page-load", { kind: "cart" }); // wrong
trace.step("cart", { error: 42 });
"""

RESOLUTIONS = [{"module": "nodenext"}, {"module": "esnext", "moduleResolution": "bundler"}]
PAGES: dict[str, Any] = {"lib": ["es2023", "dom"], "types": []}
NODE: dict[str, Any] = {"lib": ["es2023"], "types": ["node"], "typeRoots": [str(MODULES / "@types")]}

both_resolutions = pytest.mark.parametrize("resolution", RESOLUTIONS, ids=lambda it: str(it["module"]))


def compiled(project: Path, source: str, options: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """What TypeScript says to `source` in a strict project that uses the package."""
    (project / "consumer.ts").write_text(source.lstrip())
    settled = {"target": "es2022", "strict": True, "noImplicitAny": True, "skipLibCheck": False, "noEmit": True}
    configuration = {"compilerOptions": {**settled, **options}, "files": ["consumer.ts"]}
    (project / "tsconfig.json").write_text(json.dumps(configuration))
    return attempt(MODULES / ".bin" / "tsc", "--project", project / "tsconfig.json", cwd=project)


@both_resolutions
@pytest.mark.parametrize("environment", [PAGES, NODE], ids=["pages", "node"])
def test_strict_projects_can_use_all_of_it(
    project: Path, resolution: dict[str, Any], environment: dict[str, Any]
) -> None:
    done = compiled(project, RIGHT, {**resolution, **environment})

    assert (done.returncode, done.stdout) == (0, "")


@both_resolutions
def test_wrong_use_is_an_error_where_it_stands(project: Path, resolution: dict[str, Any]) -> None:
    # The only import for its effects is wrong as well, which not every compiler says unasked.
    options = {**resolution, **PAGES, "noUncheckedSideEffectImports": True}
    done = compiled(project, WRONG, options)
    wrong = [number for number, line in enumerate(WRONG.lstrip().splitlines(), 1) if line.endswith("// wrong")]

    assert sorted({int(line) for line in re.findall(r"^consumer\.ts\((\d+),", done.stdout, re.MULTILINE)}) == wrong
    assert set(re.findall(r"^(\S+)\(", done.stdout, re.MULTILINE)) == {"consumer.ts"}


def test_package_and_gateway_have_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    package, lock = (json.loads((ROOT / name).read_text()) for name in ("package.json", "package-lock.json"))

    assert package["version"] == project["version"]
    assert lock["version"] == lock["packages"][""]["version"] == package["version"]
    assert package["name"] == project["name"]
    assert package["license"] == project["license"]


def test_lock_pins_every_package_by_its_hash_and_names_no_address() -> None:
    """A mirror, or a folder of one machine, would not be there on another."""
    package, lock = (json.loads((ROOT / name).read_text()) for name in ("package.json", "package-lock.json"))
    own = lock["packages"].pop("")

    assert own["devDependencies"] == package["devDependencies"]
    for name, locked in lock["packages"].items():
        assert locked["integrity"].startswith("sha512-"), name
        assert not locked.keys() & {"resolved", "link"}, name
        assert not re.search(r"://|file:|git\+", json.dumps({**locked, "funding": None})), name
    assert "://" not in (ROOT / ".npmrc").read_text()


PAGE = "https://shop.example.com/cart"
GATEWAYS = [
    "https://shop.example.com",
    "https://traces.example.com",
    "https://perf-tracer.example.net",
    "http://localhost:8000",
]
"""The page's own origin, its own site, and others."""

LOADED = [
    "/perf-tracer.js",
    "/perf-tracer@0123456789ab.js",
    "/perf-tracer-page-load.js",
    "/perf-tracer-page-load@0123456789ab.js",
]
SENT = [
    "/api/tracing/batch",
    "/api/tracing/batch?key=abc",
    "/api/tracing/start",
    "/api/tracing/step",
    "/api/tracing/end",
]


def asked(hosts: Sequence[str], paths: Sequence[str], *types: str, page: str = PAGE) -> list[dict[str, str]]:
    """Requests as a page makes them."""
    return [{"url": host + path, "type": kind, "sourceUrl": page} for host in hosts for path in paths for kind in types]


def blocked(requests: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Those of `requests` that lists which many people have block, each with the filter that does."""
    answer = json.loads(run("node", ROOT / "tests" / "client" / "blocklists.js", *lists(), fed=json.dumps(requests)))
    assert answer["filters"] > 50_000
    found: list[dict[str, str]] = answer["blocked"]
    return found


def lists() -> list[Path]:
    """EasyList, EasyPrivacy, and uBlock Origin's own."""
    names = [f"thirdparties/easylist/{name}.txt" for name in ("easylist", "easyprivacy")]
    names += [f"ublock/{name}.min.txt" for name in ("filters", "privacy", "badware", "quick-fixes", "unbreak")]
    files = [BLOCKLISTS / name for name in names]
    if not all(file.exists() for file in files):
        skip(f"needs the lists of uBlock Origin (on Debian: apt-get install {BLOCKLISTS_PACKAGE})")
    return files


def test_blockers_let_the_client_through() -> None:
    requests = asked(GATEWAYS, LOADED, "script") + asked(GATEWAYS, SENT, "xmlhttprequest", "fetch")
    requests += [{**request, "sourceUrl": "http://localhost:3000/"} for request in requests]

    assert blocked(requests) == []


def test_blockers_do_not_let_beacons_through() -> None:
    """Which is why the client has none: `fetch` with `keepalive` outlives the page as well."""
    assert len(blocked(asked(GATEWAYS[2:], SENT, "ping"))) == 2 * len(SENT)


def test_blockers_of_these_tests_do_block() -> None:
    """By host, and by a path on hosts that are let through."""
    path, *_ = re.findall(r"^(/api/[a-z/]+\?[a-z]+)$", lists()[1].read_text(), re.MULTILINE)
    requests = [
        *asked(["https://www.google-analytics.com", "https://ad.doubleclick.net"], ["/analytics.js"], "script"),
        *asked(GATEWAYS, [f"{path}=1"], "xmlhttprequest", "fetch", "script"),
    ]
    found = [{name: value for name, value in each.items() if name != "filter"} for each in blocked(requests)]

    assert found == requests
