"""Fixtures that more than one module of tests uses."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.opentelemetry import Collector, Jaeger, require_binaries
from tests.processes import Gateway


@pytest.fixture(scope="module")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One running gateway for the tests of a module, which must each use tags of their own."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    yield gateway
    gateway.stop()


@pytest.fixture
def client(shared_gateway: Gateway) -> Iterator[httpx.Client]:
    """A client of the module's gateway."""
    with httpx.Client(base_url=shared_gateway.url, timeout=30) as client:
        yield client


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """A running gateway with an empty database."""
    gateway = Gateway(tmp_path)
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
