"""Fixtures that more than one module of tests uses."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from playwright.sync_api import Browser, Page
from sqlalchemy import Engine

from gateway.store.engine import Database
from tests.browser import PATIENCE_MS, chromium
from tests.opentelemetry import Collector, Jaeger, require_binaries
from tests.postgres import Postgres, require_postgres
from tests.processes import Gateway

KINDS = ["sqlite", "postgresql"]


@pytest.fixture(scope="module", params=KINDS)
def shared_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An empty database for the tests of a module, of each kind in turn."""
    return _empty_database(request, tmp_path_factory.mktemp("database"))


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, of each kind in turn."""
    return _empty_database(request, tmp_path)


def _empty_database(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{folder}/perf-tracer.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database without traces, of each kind in turn."""
    database = Database(database_url, busy_timeout_seconds=0.2)
    asyncio.run(database.open())
    yield database
    asyncio.run(database.close())


@pytest.fixture
def engine(database: Database) -> Engine:
    return database.writer


@pytest.fixture(scope="module")
def shared_gateway(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One running gateway for the tests of a module, which must each use tags of their own."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), {"PERF_TRACER_DATABASE_URL": shared_database_url})
    yield gateway
    gateway.stop()


@pytest.fixture
def tag() -> str:
    """A tag that no other test uses."""
    return uuid4().hex


@pytest.fixture
def client(shared_gateway: Gateway) -> Iterator[httpx.Client]:
    """A client of the module's gateway."""
    with httpx.Client(base_url=shared_gateway.url, timeout=30) as client:
        yield client


@pytest.fixture
def gateway(database_url: str, tmp_path: Path) -> Iterator[Gateway]:
    """A running gateway with an empty database, of each kind in turn."""
    gateway = Gateway(tmp_path, {"PERF_TRACER_DATABASE_URL": database_url})
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def jaeger() -> Iterator[Jaeger]:
    """The one real Jaeger of the whole run."""
    require_binaries()
    jaeger = Jaeger()
    yield jaeger
    jaeger.stop()


@pytest.fixture(scope="session")
def collector(jaeger: Jaeger) -> Iterator[Collector]:
    """The one real collector that stays up, in front of that Jaeger."""
    collector = Collector(jaeger.otlp_endpoint)
    yield collector
    collector.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The one PostgreSQL of the whole run that nobody stops; take a database of it."""
    require_postgres()
    postgres = Postgres()
    yield postgres
    postgres.remove()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A running Chromium for the tests of a module, none of which may call `asyncio.run`."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of its own profile, in which no error may go uncaught."""
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE_MS)
        errors: list[str] = []
        context.on("weberror", lambda uncaught: errors.append(str(uncaught.error)))
        yield context.new_page()
    assert errors == []
