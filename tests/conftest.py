"""Fixtures that more than one module of tests uses."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.opentelemetry import Collector, Jaeger, require_binaries
from tests.postgres import Postgres, require_postgres
from tests.processes import Gateway


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One running gateway for the tests of a module, which must each use tags of their own; on each kind of database
    in turn."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), _of_kind(request))
    yield gateway
    gateway.stop()


def _of_kind(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment for a gateway with an empty database of the kind that is asked for."""
    if request.param == "sqlite":
        return {}
    server: Postgres = request.getfixturevalue("postgres")
    return {"PERF_TRACER_DATABASE_URL": server.new_database()}


@pytest.fixture
def client(shared_gateway: Gateway) -> Iterator[httpx.Client]:
    """A client of the module's gateway."""
    with httpx.Client(base_url=shared_gateway.url, timeout=30) as client:
        yield client


@pytest.fixture(params=["sqlite", "postgresql"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    """A running gateway with an empty database, of each kind in turn."""
    gateway = Gateway(tmp_path, _of_kind(request))
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


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()
