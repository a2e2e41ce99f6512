"""Routing inside one channel: which logs want a topic, and by which schema, so that a payload is parsed once per schema and not once per log."""

from __future__ import annotations

from typing import Any, final

from pydantic_core import from_json

from ..errors import Internal
from ..schemas import Schema
from .log import InterestLog

__all__ = ("ANYTHING", "Route", "RoutingTable", "add_route", "remove_route")


class _Anything:
    """Schema of topics nobody declared: any JSON value."""

    def validate(self, value: object, /) -> object:
        return value

    def dump(self, value: object, /) -> bytes:
        raise Internal("nothing is published by this schema")

    def load(self, data: bytes, /) -> object:
        return from_json(data, allow_inf_nan=False)


ANYTHING = _Anything()


@final
class Route:
    """The logs that want a topic decoded alike."""

    __slots__ = ("logs", "schema")

    def __init__(self, schema: Schema[Any] | None, logs: dict[InterestLog, None]) -> None:  # Any: any payload
        self.schema: Schema[Any] | None = schema  # Any: any payload
        """``None``: as a RawMessage."""
        self.logs: dict[InterestLog, None] = logs


RoutingTable = dict[str | None, list[Route]]
"""Topic to its routes; under ``None`` those of logs that want every topic, which stand in the lists of all named topics too."""


def add_route(table: RoutingTable, channel: str, log: InterestLog) -> None:
    """Enter ``log`` under the topics it wants of ``channel``."""
    topics = log.interest.topics[channel]
    if topics is None:
        table.setdefault(None, [])
        for routes in table.values():
            _enter(routes, None if log.interest.raw else ANYTHING, log)
        return
    for topic, schema in topics.items():
        if topic not in table:
            table[topic] = [Route(route.schema, dict(route.logs)) for route in table.get(None, ())]
        _enter(table[topic], None if log.interest.raw else schema, log)


def remove_route(table: RoutingTable, log: InterestLog) -> None:
    """Take ``log`` out of every list."""
    for topic, routes in list(table.items()):
        for route in routes:
            route.logs.pop(log, None)
        routes[:] = [route for route in routes if route.logs]
        if not routes:
            del table[topic]


def _enter(routes: list[Route], schema: Schema[Any] | None, log: InterestLog) -> None:  # Any: any payload
    for route in routes:
        if route.schema is schema:
            route.logs[log] = None
            return
    routes.append(Route(schema, {log: None}))
