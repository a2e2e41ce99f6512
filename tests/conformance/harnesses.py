"""The in-memory transport's harness."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from fanwire.testing.harness import Harness
from fanwire_memory import MemoryBroker, MemoryOptions, MemoryTransport

__all__ = ("MemoryHarness",)


class MemoryHarness(Harness):
    """Named brokers: one for each choice of options, shared by all transports of the namespace that make it."""

    native: ClassVar[tuple[type, ...]] = (MemoryBroker,)

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace)
        self._brokers: dict[str, MemoryTransport] = {}
        """Keeps the brokers, and what they store, for as long as the check lasts."""
        self._transports: list[MemoryTransport] = []

    def transport(self, **options: object) -> MemoryTransport:
        name = "-".join(f"{key}-{value}" for key, value in sorted(options.items()))
        transport = MemoryTransport(f"conformance-{name}", MemoryOptions.model_validate({"namespace": self.namespace, **options}))
        self._brokers.setdefault(name, transport)
        self._transports.append(transport)
        return transport

    def schemes(self) -> Collection[str]:
        return ("memory",)

    def plain(self) -> MemoryTransport:
        return self.transport(history=0)

    def bounded(self, count: int) -> MemoryTransport:
        return self.transport(history=count)

    def fading(self, seconds: float) -> MemoryTransport:
        return self.transport(ttl=seconds)

    def absent(self) -> MemoryTransport:
        transport = MemoryTransport("", MemoryOptions(namespace=self.namespace))
        transport.faults.disconnect(refuse=1_000_000)
        return transport

    async def cut(self) -> None:
        for transport in self._transports:
            link, broker = transport._link, transport.native(MemoryBroker)
            if link is not None:
                with broker.lock:
                    broker.disconnect_link(link)
                    link.break_()

    async def restart(self, *, keep: bool) -> None:
        for broker in self._brokers.values():
            if not keep:
                broker.faults.forget()
            broker.faults.disconnect()

    async def stall(self) -> None:
        for broker in self._brokers.values():
            broker.faults.stall()
            broker.faults.block()

    async def resume(self) -> None:
        for broker in self._brokers.values():
            broker.faults.resume()

    async def lose_answer(self) -> None:
        for broker in self._brokers.values():
            broker.faults.lose_ack()

    async def subscriptions(self) -> int:
        return sum(broker.native(MemoryBroker).subscribed() for broker in self._brokers.values())

    async def stored(self, channel: str) -> int:
        return sum(broker.native(MemoryBroker).stored(channel) for broker in self._brokers.values())

    async def inject(self, channel: str, frame: bytes) -> None:
        for broker in self._brokers.values():
            broker.native(MemoryBroker).inject(channel, frame)

    async def trim(self, channel: str, keep: int) -> None:
        for broker in self._brokers.values():
            broker.faults.trim(channel, keep)

    async def recreate(self, channel: str) -> None:
        for broker in self._brokers.values():
            broker.faults.new_epoch(channel)

    async def rewind(self, channel: str, back: int) -> None:
        for broker in self._brokers.values():
            broker.faults.fork(channel, back)

    async def lose(self, count: int, skip: int = 0) -> None:
        for broker in self._brokers.values():
            broker.faults.drop(count, skip=skip)
