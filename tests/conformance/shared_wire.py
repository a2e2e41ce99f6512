"""One server of the wire for many clients: of several suites at once, each in a thread of its own, and of other processes, which open it by URL."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Self
from urllib.parse import urlsplit

from anyio.from_thread import start_blocking_portal

from fanwire.testing.harness import Harness
from fanwire.transport import TransportOptions
from fanwire_memory import MemoryTransport
from tests.conformance.harnesses import MemoryHarness
from tests.conformance.wire import PASSWORD, WireHarness, WireServer, WireTransport

__all__ = ("SharedWireHarness", "UrlWireTransport", "serving")


def _broker(options: Mapping[str, object]) -> MemoryTransport:
    """Return what serves a client: the broker of its namespace and options."""
    rest = dict(options)
    return MemoryHarness(str(rest.pop("namespace"))).transport(**rest)


class SharedWireHarness(WireHarness):
    """Each has a proxy of its own to the one server, which runs within :func:`serving`."""

    port: ClassVar[int] = 0
    restart = Harness.restart

    async def __aenter__(self) -> Self:
        self._proxy.target = ("127.0.0.1", self.port)
        await self._open.enter_async_context(self._proxy)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._open.aclose()

    def transport(self, **options: object) -> WireTransport:  # type: ignore[override]  # a memory transport only in what it can do
        self._broker(options)  # kept by this harness for as long as the check lasts
        return super().transport(namespace=self.namespace, **options)

    def _broker(self, options: Mapping[str, object]) -> MemoryTransport:
        return super()._broker({name: value for name, value in options.items() if name != "namespace"})


class UrlWireTransport(WireTransport):
    """``wire://host:port``."""

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        parts = urlsplit(options.url.get_secret_value())
        place = (str(parts.hostname), int(parts.port or 0))
        asked = {"namespace": options.namespace}
        return cls(lambda: place, asked, _broker(asked).capabilities, PASSWORD)


@contextmanager
def serving() -> Generator[WireServer]:
    """Serve in a thread of its own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(WireServer(_broker)) as server:
        SharedWireHarness.port = server.port
        yield server
