"""``fanwire transports``: which transports are installed, what each can do, and what is missing."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Literal, TypedDict, final

from .. import __version__
from ..capabilities import Capabilities
from ..errors import ConfigError, MissingExtra
from ..registry import GROUP, KNOWN, load_class, open_transport, suggest
from .errors import OK, report_of
from .output import as_json, columns, emit, make_console, on_terminal

__all__ = ("Entry", "find", "plain_capabilities", "schemes", "source_of", "transports", "words")

_HEADER: Final = ("url", "from", "delivery", "order", "history", "processes", "loops")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One URL scheme."""

    scheme: str
    status: Literal["installed", "missing", "broken"]
    distribution: str | None = None
    version: str | None = None
    reference: str | None = None
    """Where its class is, as ``module:attribute``."""

    capabilities: Capabilities | None = None
    """With its default options; ``None`` where it is not installed, or has no defaults for all of them."""

    reason: str | None = None
    """What is wrong or missing, in one sentence."""

    install: str | None = None
    """The command that installs what is missing."""


def schemes() -> Sequence[str]:
    """Return every scheme that is registered or known, in alphabetical order; nothing is imported."""
    return sorted({entry.name.lower() for entry in entry_points(group=GROUP)} | set(KNOWN))


def source_of(scheme: str) -> str:
    """Return which distribution registers a scheme, and its version; empty where that is not one."""
    found = [entry for entry in entry_points(group=GROUP) if entry.name.lower() == scheme]
    return _source(Entry(scheme=scheme, status="installed", **_told(found)))


def find() -> Iterator[Entry]:
    """Yield what there is, in alphabetical order; imports every transport, one that fails is told as broken."""
    registered: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        registered.setdefault(entry.name.lower(), []).append(entry)
    for scheme in schemes():
        yield _installed(scheme, registered[scheme]) if scheme in registered else _absent(scheme)


def _absent(scheme: str) -> Entry:
    return Entry(
        scheme=scheme,
        status="missing",
        reason=f"fanwire {__version__} does not have it",
        install=f'pip install --upgrade "fanwire[{KNOWN[scheme]}]"',
    )


class _Told(TypedDict, total=False):
    """What the metadata say of one transport."""

    distribution: str
    version: str
    reference: str


def _told(found: Sequence[EntryPoint]) -> _Told:
    if len(found) != 1:
        return {}  # of several, the error names them all
    told: _Told = {"reference": found[0].value.partition("[")[0].strip()}
    distribution = found[0].dist
    if distribution is not None and "Name" in distribution.metadata:
        told |= {"distribution": distribution.metadata["Name"], "version": distribution.version}
    return told


def _installed(scheme: str, found: Sequence[EntryPoint]) -> Entry:
    told = _told(found)
    try:
        capabilities, reason = _capabilities(scheme)
    except MissingExtra as error:
        reason = report_of(error).message
        command = re.search(r"pip install .+$", reason)
        return Entry(scheme=scheme, status="missing", reason=reason, install=command[0] if command else None, **told)
    except Exception as error:  # noqa: BLE001 - a third party's transport may raise anything
        return Entry(scheme=scheme, status="broken", reason=report_of(error, debug=True).message, **told)
    return Entry(scheme=scheme, status="installed", capabilities=capabilities, reason=reason, **told)


def _capabilities(scheme: str) -> tuple[Capabilities | None, str | None]:
    """Make the transport with as few options as it accepts; return what it declares, or why that cannot be told."""
    load_class(scheme)
    refused: ConfigError | None = None
    for url in (f"{scheme}://", f"{scheme}://localhost"):
        try:
            capabilities: object = open_transport(url).capabilities
        except ConfigError as error:
            refused = refused or error
            continue
        if not isinstance(capabilities, Capabilities):  # pyright: ignore[reportUnnecessaryIsInstance]  # a third party's may be anything
            raise ConfigError(f"{scheme}:// declares no Capabilities but a {type(capabilities).__name__}")
        return capabilities, None
    return None, None if refused is None else report_of(refused).message


# ---------------------------------------------------------------- what is shown


def transports(wanted: Sequence[str], *, json: bool) -> int:
    """Print what there is.

    Args:
        wanted: Schemes, to have only these and everything about them; with or without ``://``.
        json: Whether to print one JSON object.

    Raises:
        ConfigError: a scheme is neither registered nor known.
        OutputClosed: standard output cannot be written.
    """
    names = [name.lower().partition("://")[0] for name in wanted]
    for name in names:
        if name not in schemes():
            raise ConfigError(f"there is no transport {name!r}; {suggest(name, schemes())}")
    entries = [entry for entry in find() if not names or entry.scheme in names]
    if json:
        emit(as_json({"transports": [_plain(entry) for entry in entries]}))
    elif names:
        for entry in entries:
            for line in columns(list(_details(entry))):
                emit(line)
    else:
        _overview(entries)
    return OK


def _plain(entry: Entry) -> Mapping[str, object]:
    found: dict[str, object] = {field.name: getattr(entry, field.name) for field in fields(entry)}
    found["capabilities"] = None if entry.capabilities is None else plain_capabilities(entry.capabilities)
    return found


def plain_capabilities(capabilities: Capabilities) -> Mapping[str, object]:
    """Return what is declared as JSON values, and the names by which ``Realtime(require=...)`` asks for it."""
    shown: dict[str, object] = {field.name: getattr(capabilities, field.name) for field in fields(capabilities)}
    sets = {"history": sorted(capabilities.history), "async_backends": sorted(capabilities.async_backends)}
    return {**shown, **sets, "names": sorted(capabilities.names())}


def words(capabilities: Capabilities) -> Mapping[str, str]:
    """Return what is declared, in words."""
    order = {"channel": "one per channel", "publisher": "per publisher", "none": "none"}[capabilities.ordering]
    links = {"none": "no", "previous": "yes", "contiguous": "yes, with counts"}[capabilities.links]
    limit = capabilities.max_payload
    return {
        "delivery": capabilities.delivery.replace("_", " "),
        "order": order,
        "history": ", ".join(sorted(capabilities.history)) or "none",
        "processes": "many" if capabilities.multi_process else "this one only",
        "loops": ", ".join(sorted(capabilities.async_backends)),
        "publish confirmed": "yes" if capabilities.confirmed_publish else "no",
        "subscribe confirmed": "yes" if capabilities.confirmed_subscribe else "no",
        "keys suppress repeats": "at the broker" if capabilities.idempotent_publish else "at the receiver",
        "tells of losses": links,
        "largest message": "no limit" if limit is None else f"{limit:,} bytes",
        "longest channel name": f"{capabilities.max_channel_bytes:,} bytes",
    }


def _source(entry: Entry) -> str:
    return "" if entry.distribution is None else f"{entry.distribution} {entry.version or ''}".rstrip()


def _details(entry: Entry) -> Iterator[tuple[str, str]]:
    yield f"{entry.scheme}://", entry.status
    for name, value in (("from", _source(entry)), ("class", entry.reference), ("reason", entry.reason), ("install", entry.install)):
        if value:
            yield f"  {name}", value
    if entry.capabilities is not None:
        yield from ((f"  {name}", value) for name, value in words(entry.capabilities).items())


def _row(entry: Entry) -> tuple[str, ...]:
    found: Mapping[str, str] = {} if entry.capabilities is None else words(entry.capabilities)
    return (f"{entry.scheme}://", _source(entry) or "-", *(found.get(name, "unknown") for name in _HEADER[2:]))


def _troubles(entries: Sequence[Entry]) -> Iterator[tuple[Entry, str]]:
    """Yield a line about each that is not as it should be; those that one command installs share one."""
    commands: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.install is not None:
            commands.setdefault(entry.install, []).append(entry)
        elif entry.reason is not None:
            yield entry, f"{entry.scheme}:// {'needs options' if entry.status == 'installed' else f'is {entry.status}'}: {entry.reason}"
    for command, members in commands.items():
        names = ", ".join(f"{member.scheme}://" for member in members)
        yield members[0], f"{names} {'is' if len(members) == 1 else 'are'} missing: {command}"


def _overview(entries: Sequence[Entry]) -> None:
    """A table of what is installed, and a line for each that is not, or is not whole."""
    if on_terminal(sys.stdout):
        _draw(entries)
        return
    for line in columns([_HEADER, *(_row(entry) for entry in entries if entry.status == "installed")]):
        emit(line)
    for _, line in _troubles(entries):
        emit(line)


def _draw(entries: Sequence[Entry]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = make_console(sys.stdout)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in _HEADER:
        table.add_column(name, style="cyan" if name == "url" else "")
    there = [entry for entry in entries if entry.status == "installed"]
    for entry in there:
        table.add_row(*map(Text, _row(entry)))
    if console.measure(table, options=console.options.update(max_width=1_000)).maximum <= console.width:
        console.print(table)
    else:  # too narrow for a table: a paragraph for each loses nothing
        for entry in there:
            cells = zip(_HEADER[1:], _row(entry)[1:], strict=True)
            console.print(Text.assemble((f"{entry.scheme}://", "bold cyan"), "  ", "; ".join(f"{name}: {cell}" for name, cell in cells)))
    for entry, line in _troubles(entries):
        console.print(Text(line, style="red" if entry.status == "broken" else "dim"), soft_wrap=True)
