"""What takes part in the tests across processes, each in one of its own; run as ``python actors.py ROLE ...``. Says what it does, line by line, on standard output.

* ``publisher URL NAMESPACE COUNT``: each number before it is published, and the id it was accepted under.
* ``subscriber URL NAMESPACE LAST``: ``ready``, then each id and number that came, and each gap, until the number ``LAST``.
* ``auditor HOST PORT KEY``: the ids and numbers of a stream, as plain redis-py reads it. Knows nothing of fanwire.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any


def say(*what: object) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def publisher(url: str, namespace: str, count: str) -> None:
    """See the module."""
    import anyio

    from tests.redis.scenes import opened, room

    async def main() -> None:
        async with opened(url, namespace, timeout=30) as rt:

            async def one(number: int) -> None:
                say("tries", number)
                receipt = await rt.publish(room(), number)
                say("accepted", number, receipt.id, str(receipt.cursor))

            for begin in range(1, int(count) + 1, 20):
                async with anyio.create_task_group() as tasks:
                    for number in range(begin, min(begin + 20, int(count) + 1)):
                        tasks.start_soon(one, number)

    anyio.run(main)


def subscriber(url: str, namespace: str, last: str) -> None:
    """See the module."""
    import anyio

    from fanwire import Gap
    from tests.redis.scenes import opened, room

    async def main() -> None:
        async with opened(url, namespace) as rt, rt.subscribe(room(), buffer=100_000).with_gaps() as items:
            say("ready")
            async for item in items:
                if isinstance(item, Gap):
                    say("gap", str(item))
                    continue
                say("came", item.data, item.id, str(item.cursor))
                if item.data == int(last):
                    return

    anyio.run(main)


def auditor(host: str, port: str, key: str) -> None:
    """See the module."""
    import redis

    client: Any = redis.Redis(host=host, port=int(port))  # Any: redis-py types its commands for its asynchronous client too
    with client:
        for id, fields in client.xrange(key):
            message = json.loads(fields[b"d"][9:])
            say("stored", message["data"], message["id"], id.decode())


ROLES: dict[str, Callable[..., None]] = {"publisher": publisher, "subscriber": subscriber, "auditor": auditor}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
