"""Configuration: which transport, and how a Realtime uses it, from arguments, the environment and TOML files.

In order of precedence, for each setting on its own:

1. arguments of :func:`load_settings` (``None`` counts as not given);
2. the environment, ``FANWIRE_URL``, ``FANWIRE_TIMEOUT`` and so on, in any case;
3. ``fanwire.toml``, whose top level holds the settings;
4. the table ``[tool.fanwire]`` of ``pyproject.toml``.

Both files are looked for in one directory, by default the working directory, never in those above it: what a program connects to must not depend on where its checkout
lies. ``path=`` names a file to read in place of both.

Options of the transport stand in the table ``[options]`` (``[tool.fanwire.options]``), in the environment as ``FANWIRE_OPTIONS__HISTORY=50`` (deeper tables by further
``__``; the names are lowered), or in the query of the URL. They are merged name by name. One given in two ways follows the same order, so the query of a ``FANWIRE_URL`` wins
over a file; within one source the option wins over the query. Options that only one transport knows are best kept in its URL, for then they change with it. ``namespace`` is
such an option too, with a setting of its own.

In the environment a list is written ``history,links`` or as JSON, ``FANWIRE_OPTIONS`` as a JSON object. An empty variable counts as not set. A variable that starts with
``FANWIRE_`` and is no setting is an error, for it is most likely a typing mistake; not so

* ``FANWIRE_TEST_...`` and ``FANWIRE_BENCH_...``: reserved for test suites and benchmarks;
* what Kubernetes adds for a service called ``fanwire`` or ``fanwire-...``: ``FANWIRE_SERVICE_HOST``, ``FANWIRE_PORT=tcp://...`` and their like.

Every error is a :class:`~fanwire.errors.ConfigError` and says where the setting came from. The URL and the options are in no message and no ``repr``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple, TypeGuard

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError

from .capabilities import Capabilities
from .errors import ConfigError
from .registry import Option, open_with, suggest
from .transport import Transport

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings, EnvSettingsSource

__all__ = ("FILE", "PREFIX", "PYPROJECT", "RESERVED", "Settings", "load_settings")

FILE = "fanwire.toml"
"""Name of the configuration file."""

PYPROJECT = "pyproject.toml"
"""Name of the file whose table ``[tool.fanwire]`` may hold settings too."""

PREFIX = "FANWIRE_"
"""What the environment variables start with."""

RESERVED = ("FANWIRE_TEST_", "FANWIRE_BENCH_")
"""Starts of environment variables that are left alone."""

_SERVICE = re.compile(r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)\Z")
_SERVICE_PORT = re.compile(r"(tcp|udp|sctp)://")

_ARGUMENT, _ENVIRONMENT, _FILE, _PYPROJECT = range(4)


class _Origin(NamedTuple):
    """Where a setting came from."""

    rank: int
    """Lower ranks win."""

    label: str
    """What messages call it."""


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not a boolean")  # noqa: TRY004 - pydantic collects ValueErrors, a TypeError would escape it
    return value


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [name for part in value.split(",") if (name := part.strip())]


def _not_empty(url: SecretStr) -> SecretStr:
    if not url.get_secret_value():
        raise ValueError("the URL must not be empty")
    return url


def _known_capabilities(names: tuple[str, ...]) -> tuple[str, ...]:
    Capabilities(delivery="at_most_once", ordering="none", multi_process=False, confirmed_publish=False, confirmed_subscribe=False).missing(names)
    return names


_Seconds = Annotated[float, BeforeValidator(_no_bool)]
_Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]


class Settings(BaseModel):
    """What :func:`load_settings` found, with defaults for the rest."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[SecretStr, AfterValidator(_not_empty)]
    """The transport's URL, which may hold a password."""

    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """Prefix of everything on the broker; ``None`` leaves it to the URL, and that to the transport's default, ``fanwire``."""

    timeout: _Seconds = Field(default=10.0, gt=0)
    """Seconds that a publish may take, unless it says otherwise."""

    connect_timeout: _Seconds = Field(default=10.0, gt=0)
    """Seconds that connecting, and subscribing, may take."""

    buffer: _Count = 1024
    """Messages that one subscription may have waiting."""

    buffer_bytes: _Count = 8 * 2**20
    """Bytes of frames that one subscription may have waiting."""

    buffer_bytes_total: _Count = 256 * 2**20
    """Bytes of frames that all subscriptions together may have waiting."""

    linger: _Seconds = Field(default=1.0, ge=0)
    """Seconds that a channel stays subscribed at the broker after its last subscription has gone."""

    require: Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_known_capabilities)] = ()
    """Capabilities without which a Realtime must not start, by the names of :meth:`Capabilities.names`."""

    options: Mapping[str, object] = Field(default_factory=dict[str, object], repr=False)
    """Options of the transport, not yet validated; some may be secrets."""

    _origins: Mapping[str, _Origin] = PrivateAttr(default_factory=dict[str, _Origin])

    def model_post_init(self, context: object, /) -> None:
        """Keep where each setting came from, which the loader passes as the context."""
        if isinstance(context, _Origins):
            self._origins = context

    def open_transport(self) -> Transport:
        """Make the transport; no I/O but the import of its module.

        Raises:
            UnknownTransport: no installed distribution registers the URL's scheme.
            MissingExtra: a package the transport needs is not installed.
            ConfigError: the URL or an option is wrong; the text says where it came from.
        """
        url = self._origins.get("url", _Origin(_ARGUMENT, "the URL"))
        given: dict[str, Option] = {}
        if self.namespace is not None:
            given["namespace"] = self._option("namespace", self.namespace, url.rank)
        for name, value in self.options.items():
            given[name] = self._option(f"options.{name}", value, url.rank)
        return open_with(self.url.get_secret_value(), given, where=url.label)

    def _option(self, key: str, value: object, url_rank: int) -> Option:
        origin = self._origins.get(key, _Origin(_ARGUMENT, key))
        return Option(value, origin.label, yields=origin.rank > url_rank)


class _Origins(dict[str, _Origin]):
    """Keys of settings, ``options.<name>`` included, and where they came from. A type of its own, so that no other context is taken for it."""


class _Source(NamedTuple):
    """What one place says."""

    rank: int
    values: Mapping[str, object]
    prefix: str
    names: Mapping[str, str] = {}
    """Of the environment, the variable behind each key."""

    def label(self, key: str) -> str:
        """Return what messages call a key such as ``timeout`` or ``options.history``."""
        if self.rank != _ENVIRONMENT:
            return f"{self.prefix}{key}"
        behind = [name for inner, name in self.names.items() if inner == key or inner.startswith(f"{key}.")]
        return f"{self.prefix}{', '.join(behind or [self.names.get('options', key)])}"


def load_settings(*, path: str | os.PathLike[str] | None = None, directory: str | os.PathLike[str] | None = None, **overrides: object) -> Settings:
    """Read the configuration.

    Args:
        path: A file to read in place of those in ``directory``; one called ``pyproject.toml`` must have a table ``[tool.fanwire]``.
        directory: Where ``fanwire.toml`` and ``pyproject.toml`` are looked for; by default the working directory.
        **overrides: Settings by name, which win over all others; ``None`` counts as not given.

    Raises:
        ConfigError: a file cannot be read, a key is unknown, a value is wrong, or no source has the URL; the text names the file, the environment variable or the argument.

    Example::

        settings = load_settings(timeout=3.0)
        transport = settings.open_transport()
    """
    if path is not None and directory is not None:
        raise ConfigError("argument path: names the file to read, so give no directory beside it")
    files = [Path(path).expanduser()] if path is not None else [Path(directory or ".") / FILE, Path(directory or ".") / PYPROJECT]
    sources = [_Source(_ARGUMENT, {name: value for name, value in overrides.items() if value is not None}, "argument "), _environment()]
    sources += [source for file in files if (source := _read(file, explicit=path is not None)) is not None]
    merged: dict[str, object] = {}
    origins = _Origins()
    for source in sources:
        for key, value, label in _entries(source):
            if key not in origins:
                merged[key] = value
                origins[key] = _Origin(source.rank, label)
    if "url" not in merged:
        raise ConfigError(_no_url(files))
    return _validate(merged, origins)


def _entries(source: _Source) -> Iterator[tuple[str, object, str]]:
    """Yield the settings of a source, each option on its own: key, value, and what messages call it.

    Raises:
        ConfigError: a key is unknown, the options are no table, or the namespace is given twice.
    """
    for key, value in source.values.items():
        if key not in Settings.model_fields:
            stray = f"; the settings stand at the top level of {FILE}" if key == "tool" and source.rank == _FILE else ""
            raise ConfigError(f"{source.label(key)}: unknown setting; {suggest(key, Settings.model_fields)}{stray}")
        if key != "options":
            yield key, value, source.label(key)
            continue
        if not _is_table(value):
            raise ConfigError(f"{source.label(key)}: must be a table of options of the transport, got {type(value).__name__}")
        for name, option in value.items():
            label = source.label(f"options.{name}")
            if name == "namespace" and "namespace" in source.values:
                raise ConfigError(f"{label}: given as {source.label('namespace')} too; remove one of them")
            yield ("namespace" if name == "namespace" else f"options.{name}"), option, label


def _is_table(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping)


def _validate(merged: Mapping[str, object], origins: _Origins) -> Settings:
    values: dict[str, object] = {key: value for key, value in merged.items() if not key.startswith("options.")}
    values["options"] = {key.removeprefix("options."): value for key, value in merged.items() if key.startswith("options.")}
    try:
        return Settings.model_validate(values, context=origins)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    # Outside of the handler: pydantic's own error quotes values, and a traceback would show it as the context.
    raise ConfigError("; ".join(_fault(str(fault["loc"][0]), origins, fault["msg"], fault["input"]) for fault in faults))


def _fault(key: str, origins: _Origins, text: str, value: object) -> str:
    """Say what is wrong with one setting, and show its value where that is short and not the URL."""
    shown = "" if key == "url" else repr(value)
    return f"{origins[key].label}: {text.removeprefix('Value error, ')}{f' (got {shown})' if 0 < len(shown) <= 64 else ''}"


def _no_url(files: list[Path]) -> str:
    looked = [f"{file.absolute()}{' [tool.fanwire]' * (file.name == PYPROJECT)}{' (not there)' * (not file.exists())}" for file in files]
    places = ", ".join(["argument url", "environment variable FANWIRE_URL", *looked])
    return f'no URL of a transport is configured; looked for it in: {places}. Write for example url = "memory://" into {FILE}, or set FANWIRE_URL=memory://'


# ---------------------------------------------------------------- files


def _read(file: Path, *, explicit: bool) -> _Source | None:
    """Read a TOML file; ``None`` where it is not there, or is a ``pyproject.toml`` that says nothing about fanwire.

    Raises:
        ConfigError: it cannot be read or is no TOML; or it was named by the caller, and there is nothing.
    """
    values: Mapping[str, object] = _toml(file, explicit=explicit)
    if file.name != PYPROJECT:
        return _Source(_FILE, values, f"{file}: ")
    for place in ("tool", "tool.fanwire"):
        table = values.get(place.rpartition(".")[2])
        if table is None:
            if explicit:
                raise ConfigError(f"{file}: has no table [tool.fanwire]")
            return None
        if not _is_table(table):
            raise ConfigError(f"{file}: {place}: must be a table, got {type(table).__name__}")
        values = table
    return _Source(_PYPROJECT, values, f"{file}: tool.fanwire.")


def _toml(file: Path, *, explicit: bool) -> dict[str, object]:
    from pydantic_settings import TomlConfigSettingsSource

    try:
        if explicit and not file.is_file():
            raise ConfigError(f"{file}: there is no such file")
        # The table as it stands: a call of the source would match keys regardless of case, and drop one of two that differ in it.
        return TomlConfigSettingsSource(_model(), toml_file=file).toml_data
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or type(error).__name__}") from error
    except RecursionError:
        fault = "arrays or tables are nested too deeply"
    except UnicodeDecodeError as error:
        before = bytes(error.object[: error.start])
        line, column = before.count(b"\n") + 1, len(before.rpartition(b"\n")[2].decode()) + 1
        fault = f"not UTF-8 (at line {line}, column {column})"
    except ValueError as error:
        # TOMLDecodeError, whose text ends with the line and the column; or a number with thousands of digits.
        fault = str(error)
    raise ConfigError(f"{file}: no valid TOML: {fault}")


# ---------------------------------------------------------------- environment


@cache
def _model() -> type[BaseSettings]:
    """The settings as pydantic-settings wants them; made on demand, for it takes longer to import than the rest of fanwire."""
    from pydantic_settings import BaseSettings, SettingsConfigDict

    class Sources(Settings, BaseSettings):
        model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True)

    return Sources


def _environment() -> _Source:
    """Read the environment.

    Raises:
        ConfigError: a variable is no setting, contradicts another, or is no JSON where it has to be.
    """
    from pydantic_settings import SettingsError

    empty = _Source(_ENVIRONMENT, {}, "environment variable ", _variables())
    try:
        return empty._replace(values=_source()())
    except SettingsError as error:
        fault = error.__cause__  # what json says, which does not quote the value
    raise ConfigError(f"{empty.prefix}{PREFIX}OPTIONS: must be a JSON object of options: {fault}")


def _source() -> EnvSettingsSource:
    from pydantic.fields import FieldInfo
    from pydantic_settings import EnvSettingsSource

    class Environment(EnvSettingsSource):
        def decode_complex_value(self, field_name: str, field: FieldInfo, value: object) -> object:
            """Leave lists to the settings' own validator, which takes ``a,b`` as well as JSON."""
            return value if field_name == "require" else super().decode_complex_value(field_name, field, value)

    return Environment(_model())


def _variables() -> dict[str, str]:
    """Return the variables that are settings: ``{"options.history": "FANWIRE_OPTIONS__HISTORY"}``.

    Raises:
        ConfigError: one is no setting, or contradicts another.
    """
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        if not name.upper().startswith(PREFIX) or _foreign(name.upper(), value):
            continue
        key = name[len(PREFIX) :].lower()
        field, *path = key.split("__")
        if field not in Settings.model_fields or not all(path) or (path and field != "options"):
            raise ConfigError(f"environment variable {name}: unknown setting; {_suggest_variable(key)}")
        if not value:
            continue
        dotted = ".".join([field, *path])
        if dotted in found:
            raise ConfigError(f"environment variable {name}: set as {found[dotted]} too; unset one of them")
        found[dotted] = name
    for dotted, name in found.items():
        outer = next((other for other in found if dotted.startswith(f"{other}.") and other != "options"), None)
        if outer:
            raise ConfigError(f"environment variable {name}: {found[outer]} sets the option as a whole; unset one of them")
    return found


def _suggest_variable(key: str) -> str:
    if key.startswith("options_") and key.strip("_") != "options":
        return f"did you mean {PREFIX}OPTIONS__{key.removeprefix('options').strip('_').upper()}, with two underscores?"
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields if field != "options"} | {f"{PREFIX}OPTIONS__..."}
    return suggest(f"{PREFIX}{key.upper()}", known)


def _foreign(name: str, value: str) -> bool:
    """Whether a variable belongs to someone else: test suites, or Kubernetes, which describes each service to each container."""
    if name.startswith(RESERVED) or _SERVICE.search(name):
        return True
    return name.endswith("_PORT") and _SERVICE_PORT.match(value) is not None
