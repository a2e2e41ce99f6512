"""Configuration: what wins over what, and that everything wrong says where it came from."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fanwire import Realtime
from fanwire.config import Settings, load_settings
from fanwire.errors import ConfigError, UnknownTransport, Unsupported
from tests.planting import planting, said
from tests.toyfan import ToyOptions

SECRET = "hunter2"
FANWIRE = "fanwire.toml"
PYPROJECT = "pyproject.toml"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without our variables."""
    for name in os.environ:
        if name.upper().startswith("FANWIRE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy transport, installed."""
    with planting(tmp_path_factory.mktemp("site"), monkeypatch) as planter:
        planter.toyfan()
        yield


def write(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")


def load(**overrides: Any) -> Settings:  # Any: tests pass what type checkers would refuse
    return load_settings(**overrides)


def refusal(**overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**overrides)
    return str(caught.value)


def opened(settings: Settings) -> dict[str, object]:
    """The options that the toy transport was made with."""
    options: object = getattr(settings.open_transport(), "options", None)
    assert type(options).__name__ == ToyOptions.__name__
    return {name: getattr(options, name) for name in ToyOptions.model_fields}


# ---------------------------------------------------------------- defaults and precedence


def test_the_url_alone_is_enough() -> None:
    settings = load_settings(url="memory://")
    assert settings.url.get_secret_value() == "memory://"
    assert settings.model_dump(exclude={"url"}) == {
        "namespace": None,
        "timeout": 10.0,
        "connect_timeout": 10.0,
        "buffer": 1024,
        "buffer_bytes": 8 * 2**20,
        "buffer_bytes_total": 256 * 2**20,
        "linger": 1.0,
        "require": (),
        "options": {},
    }


VALUES: Mapping[str, tuple[object, object, object, object]] = {
    "namespace": ("a", "b", "c", "d"),
    "timeout": (1.0, 2.0, 3.0, 4.0),
    "connect_timeout": (1.0, 2.0, 3.0, 4.0),
    "buffer": (1, 2, 3, 4),
    "buffer_bytes": (1, 2, 3, 4),
    "buffer_bytes_total": (1, 2, 3, 4),
    "linger": (0.0, 0.5, 1.5, 2.5),
}


@pytest.mark.parametrize("first", range(4), ids=["argument", "environment", "fanwire.toml", "pyproject.toml"])
@pytest.mark.parametrize("key", VALUES)
def test_each_setting_comes_from_the_first_source_that_has_it(monkeypatch: pytest.MonkeyPatch, key: str, first: int) -> None:
    values = VALUES[key]
    overrides: dict[str, object] = {"url": "memory://"}
    for rank in range(first, 4):
        match rank:
            case 0:
                overrides[key] = values[0]
            case 1:
                monkeypatch.setenv(f"FANWIRE_{key.upper()}", str(values[1]))
            case 2:
                write(FANWIRE, f"{key} = {values[2]!r}")
            case _:
                write(PYPROJECT, f"[tool.fanwire]\n{key} = {values[3]!r}")
    assert getattr(load(**overrides), key) == values[first]


@pytest.mark.parametrize("first", range(4), ids=["argument", "environment", "fanwire.toml", "pyproject.toml"])
def test_the_url_the_capabilities_and_each_option_do_so_too(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    overrides: dict[str, object] = {}
    if first <= 0:
        overrides = {"url": "a://", "require": ["history"], "options": {"common": "a", "only_a": 1}}
    if first <= 1:
        monkeypatch.setenv("FANWIRE_URL", "b://")
        monkeypatch.setenv("FANWIRE_REQUIRE", "links, multi_process")
        monkeypatch.setenv("FANWIRE_OPTIONS__COMMON", "b")
        monkeypatch.setenv("FANWIRE_OPTIONS__ONLY_B", "1")
    if first <= 2:
        write(FANWIRE, 'url = "c://"\nrequire = ["links"]\n[options]\ncommon = "c"\nonly_c = 1')
    write(PYPROJECT, '[tool.fanwire]\nurl = "d://"\nrequire = []\n[tool.fanwire.options]\ncommon = "d"\nonly_d = 1')
    settings = load(**overrides)
    letter = "abcd"[first]
    assert settings.url.get_secret_value() == f"{letter}://"
    assert settings.require == (("history",), ("links", "multi_process"), ("links",), ())[first]
    assert settings.options["common"] == letter
    assert {name for name in settings.options if name != "common"} == {f"only_{later}" for later in "abcd"[first:]}


def test_none_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANWIRE_URL", "memory://")
    assert load_settings(url=None, timeout=None).timeout == 10.0


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    write(FANWIRE, 'url = "memory://"\ntimeout = 3\n[options]\nhistory = 1')
    for name in ("FANWIRE_URL", "FANWIRE_TIMEOUT", "FANWIRE_OPTIONS", "FANWIRE_OPTIONS__HISTORY"):
        monkeypatch.setenv(name, "")
    settings = load_settings()
    assert (settings.url.get_secret_value(), settings.timeout, settings.options) == ("memory://", 3.0, {"history": 1})
    monkeypatch.setenv("fanwire_timeout", "4")
    monkeypatch.setenv("FANWIRE_OPTIONS__HISTORY__DEPTH", "2")
    settings = load_settings()
    assert (settings.timeout, settings.options) == (4.0, {"history": {"depth": "2"}}), "nor does it contradict another"


def test_variables_are_read_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("fanwire_url", "memory://")
    monkeypatch.setenv("Fanwire_Options__History", "5")
    settings = load_settings()
    assert settings.url.get_secret_value() == "memory://"
    assert settings.options == {"history": "5"}


def test_options_in_the_environment_nest_and_stay_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANWIRE_OPTIONS", '{"history": 5, "topics": {"a": "x"}}')
    monkeypatch.setenv("FANWIRE_OPTIONS__TOPICS__B", "y")
    monkeypatch.setenv("FANWIRE_OPTIONS__PASSWORD", "0123")
    monkeypatch.setenv("FANWIRE_OPTIONS__OTHER", "[1, 2]")
    assert load_settings(url="toy://").options == {"history": 5, "topics": {"a": "x", "b": "y"}, "password": "0123", "other": "[1, 2]"}


def test_a_list_in_the_environment_may_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANWIRE_REQUIRE", '["history", "links"]')
    assert load_settings(url="memory://").require == ("history", "links")


# ---------------------------------------------------------------- which files


def test_only_the_directory_itself_is_looked_in(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(FANWIRE, 'url = "memory://"')
    (here / "below").mkdir()
    assert load_settings(directory=here).url.get_secret_value() == "memory://"
    monkeypatch.chdir(here / "below")
    assert "no URL" in refusal()
    assert load_settings(directory=here).url.get_secret_value() == "memory://"


def test_a_path_is_read_in_place_of_the_files_there(here: Path) -> None:
    write(FANWIRE, 'url = "memory://"\ntimeout = 3')
    write(PYPROJECT, "[tool.fanwire]\nlinger = 3")
    write("other.toml", 'url = "toy://"')
    settings = load_settings(path="other.toml")
    assert (settings.url.get_secret_value(), settings.timeout, settings.linger) == ("toy://", 10.0, 1.0)
    assert load_settings(path=here / PYPROJECT, url="toy://").linger == 3.0


@pytest.mark.parametrize("text", ["", "tool = 5\n", "[tool]\nfanwire = 5\n"], ids=["empty", "no-table", "no-inner-table"])
def test_a_pyproject_without_our_table_is_passed_over_unless_it_was_asked_for(text: str) -> None:
    write(PYPROJECT, text or "[tool.other]\nkey = 1\n")
    if text:
        assert refusal(url="memory://").startswith("pyproject.toml: tool")
        assert refusal(url="memory://").endswith("must be a table, got int")
    else:
        assert load_settings(url="memory://").timeout == 10.0
    assert refusal(url="memory://", path=PYPROJECT).startswith("pyproject.toml: ")


def test_a_path_has_to_exist(here: Path) -> None:
    assert refusal(url="memory://", path="missing.toml") == "missing.toml: there is no such file"
    assert refusal(url="memory://", path=here) == f"{here}: there is no such file"
    assert refusal(url="memory://", path="x.toml", directory=here).startswith("argument path: ")


def test_a_missing_url_says_where_it_was_looked_for(here: Path) -> None:
    write(PYPROJECT, "[tool.fanwire]\ntimeout = 3")
    text = refusal()
    assert "argument url" in text
    assert "environment variable FANWIRE_URL" in text
    assert f"{here / FANWIRE} (not there)" in text
    assert f"{here / PYPROJECT} [tool.fanwire]." in text
    assert 'url = "memory://"' in text


# ---------------------------------------------------------------- what is wrong, and where


def argument(key: str, value: object) -> dict[str, object]:
    return {"url": "memory://", key: value}


BAD: Mapping[str, tuple[object, str]] = {
    "namespace": ("a.b", "String should match pattern"),
    "timeout": (0, "greater than 0"),
    "connect_timeout": (-1, "greater than 0"),
    "buffer": (0, "greater than or equal to 1"),
    "buffer_bytes": (0, "greater than or equal to 1"),
    "buffer_bytes_total": ("many", "valid integer"),
    "linger": (-0.5, "greater than or equal to 0"),
    "require": (["hystory"], "unknown capability 'hystory'; did you mean 'history'?"),
}


@pytest.mark.parametrize("key", BAD)
def test_a_wrong_value_names_its_origin(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    value, expected = BAD[key]
    written = "hystory" if key == "require" else str(value)

    text = refusal(**argument(key, value))
    assert text.startswith(f"argument {key}: ")
    assert expected in text

    monkeypatch.setenv(f"FANWIRE_{key.upper()}", written)
    text = refusal(url="memory://")
    assert text.startswith(f"environment variable FANWIRE_{key.upper()}: ")
    assert expected in text
    monkeypatch.delenv(f"FANWIRE_{key.upper()}")

    write(PYPROJECT, f"[tool.fanwire]\n{key} = {value!r}")
    text = refusal(url="memory://")
    assert text.startswith(f"pyproject.toml: tool.fanwire.{key}: ")
    assert expected in text

    write(FANWIRE, f"{key} = {value!r}")
    text = refusal(url="memory://")
    assert text.startswith(f"fanwire.toml: {key}: ")
    assert expected in text


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("timeout", "soon", "argument timeout: Input should be a valid number, unable to parse string as a number (got 'soon')"),
        ("timeout", True, "argument timeout: Input should be a number, not a boolean (got True)"),
        ("timeout", float("nan"), "argument timeout: Input should be greater than 0 (got nan)"),
        ("linger", float("nan"), "argument linger: Input should be greater than or equal to 0 (got nan)"),
        ("buffer", 1.5, "argument buffer: Input should be a valid integer, got a number with a fractional part (got 1.5)"),
        ("buffer", False, "argument buffer: Input should be a number, not a boolean (got False)"),
        ("require", 5, "argument require: Input should be a valid tuple (got 5)"),
        ("require", "[history", "argument require: Expecting value: line 1 column 2 (char 1) (got '[history')"),
        ("options", 5, "argument options: must be a table of options of the transport, got int"),
        ("tiemout", 5, "argument tiemout: unknown setting; did you mean 'timeout'?"),
        ("model_config", 5, "argument model_config: unknown setting; known: buffer, buffer_bytes, buffer_bytes_total, connect_timeout, linger, "),
    ],
)
def test_a_wrong_argument(key: str, value: object, expected: str) -> None:
    assert refusal(**argument(key, value)).startswith(expected)


def test_endless_timeouts_are_allowed() -> None:
    write(FANWIRE, 'url = "memory://"\ntimeout = inf')
    assert load_settings().timeout == float("inf")


def test_all_wrong_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANWIRE_TIMEOUT", "0")
    write(FANWIRE, 'url = "memory://"\nbuffer = 0')
    text = refusal()
    assert "environment variable FANWIRE_TIMEOUT: " in text
    assert "; fanwire.toml: buffer: " in text


def test_a_wrong_value_that_is_overridden_does_no_harm() -> None:
    write(FANWIRE, 'url = "memory://"\ntimeout = 0')
    assert load_settings(timeout=2).timeout == 2.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tiemout = 5", "fanwire.toml: tiemout: unknown setting; did you mean 'timeout'?"),
        ("Timeout = 5", "fanwire.toml: Timeout: unknown setting; did you mean 'timeout'?"),
        ("_origins = 5", "fanwire.toml: _origins: unknown setting; "),
        ("[tool.fanwire]\ntimeout = 5", "fanwire.toml: tool: unknown setting; known: "),
        ("options = 5", "fanwire.toml: options: must be a table of options of the transport, got int"),
        ('url = ""', "fanwire.toml: url: the URL must not be empty"),
        ("url = 5", "fanwire.toml: url: Input should be a valid string"),
        ("timeout = 1979-05-27", "fanwire.toml: timeout: Input should be a valid number"),
        ('namespace = "a"\noptions.namespace = "b"', "fanwire.toml: options.namespace: given as fanwire.toml: namespace too"),
        ('options.namespace = "a.b"', "fanwire.toml: options.namespace: String should match pattern"),
    ],
)
def test_a_wrong_file(text: str, expected: str) -> None:
    write(FANWIRE, text if text.startswith("url") else f'url = "memory://"\n{text}')
    assert refusal().startswith(expected)
    assert ("top level of fanwire.toml" in refusal()) == text.startswith("[tool")


@pytest.mark.parametrize("name", [FANWIRE, PYPROJECT])
@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"url = 'memory://'\ntimeout == 5", "(at line 2, column 10)"),
        (b"[options", "(at end of document)"),
        (b"a = 1\na = 2\nb = 3", "(at line 2, column 6)"),
        (b"a = '\xc3\xa9'\nb = '\xc3\xa9\xff'", "not UTF-8 (at line 2, column 7)"),
        (b"a = " + b"9" * 5000, "no valid TOML: "),
        (b"a = " + b"[" * 5000, "no valid TOML: "),
    ],
    ids=["syntax", "unfinished", "twice", "encoding", "endless-number", "deep"],
)
def test_bad_toml_says_where(name: str, content: bytes, place: str) -> None:
    Path(name).write_bytes(content)
    text = refusal(url="memory://")
    assert text.startswith(f"{name}: no valid TOML: ")
    assert place in text


def test_a_file_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    write(FANWIRE, 'url = "memory://"')

    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tomllib.load", refuse)  # the tests may run as a user whom no file refuses
    assert refusal() == "fanwire.toml: cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("FANWIRE_TIEMOUT", "5", "environment variable FANWIRE_TIEMOUT: unknown setting; did you mean 'FANWIRE_TIMEOUT'?"),
        ("FANWIRE_TIEMOUT", "", "environment variable FANWIRE_TIEMOUT: unknown setting; did you mean 'FANWIRE_TIMEOUT'?"),
        ("fanwire_tiemout", "5", "environment variable fanwire_tiemout: unknown setting; "),
        ("FANWIRE_", "5", "environment variable FANWIRE_: unknown setting; "),
        (
            "FANWIRE_OPTIONS_HISTORY",
            "5",
            "environment variable FANWIRE_OPTIONS_HISTORY: unknown setting; did you mean FANWIRE_OPTIONS__HISTORY, with two",
        ),
        ("FANWIRE_OPTIONS__", "5", "environment variable FANWIRE_OPTIONS__: unknown setting; "),
        ("FANWIRE_OPTIONS__A____B", "5", "environment variable FANWIRE_OPTIONS__A____B: unknown setting; "),
        ("FANWIRE_TIMEOUT__X", "5", "environment variable FANWIRE_TIMEOUT__X: unknown setting; "),
        ("FANWIRE_PORT", "8080", "environment variable FANWIRE_PORT: unknown setting; "),
        ("FANWIRE_OPTIONS", "{", "environment variable FANWIRE_OPTIONS: must be a JSON object of options: "),
        ("FANWIRE_OPTIONS", "[]", "environment variable FANWIRE_OPTIONS: must be a table of options of the transport, got list"),
    ],
)
def test_a_wrong_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str) -> None:
    monkeypatch.setenv(name, value)
    assert refusal(url="memory://").startswith(expected)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FANWIRE_TIMEOUT": "1", "fanwire_timeout": "2"}, "environment variable fanwire_timeout: set as FANWIRE_TIMEOUT too"),
        (
            {"FANWIRE_OPTIONS__A": "1", "FANWIRE_OPTIONS__A__B": "2"},
            "environment variable FANWIRE_OPTIONS__A__B: FANWIRE_OPTIONS__A sets the option as a",
        ),
        (
            {"FANWIRE_NAMESPACE": "a", "FANWIRE_OPTIONS__NAMESPACE": "b"},
            "environment variable FANWIRE_OPTIONS__NAMESPACE: given as environment variable",
        ),
    ],
)
def test_variables_that_contradict_each_other(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert refusal(url="memory://").startswith(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FANWIRE_TEST_REDIS", "localhost"),
        ("FANWIRE_BENCH_ROUNDS", "5"),
        ("FANWIRE_SERVICE_HOST", "10.0.0.1"),
        ("FANWIRE_SERVICE_PORT", "80"),
        ("FANWIRE_SERVICE_PORT_HTTP", "80"),
        ("FANWIRE_PORT", "tcp://10.0.0.1:80"),
        ("FANWIRE_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("FANWIRE_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("FANWIRE_GATEWAY_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("FANWIREX_TIMEOUT", "0"),
    ],
)
def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert load_settings(url="memory://").timeout == 10.0


# ---------------------------------------------------------------- opening


@pytest.mark.usefixtures("toy")
def test_the_transport_gets_the_namespace_and_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANWIRE_OPTIONS__HISTORY", "5")
    write(FANWIRE, 'url = "toy://h?fast_start=true"\nnamespace = "blue"\n[options]\nmode = "safe"\ntopics.a = "b"')
    found = opened(load_settings())
    assert (found["namespace"], found["history"], found["mode"], found["topics"], found["fast_start"]) == ("blue", 5, "safe", {"a": "b"}, True)


@pytest.mark.usefixtures("toy")
def test_without_a_namespace_the_url_or_the_transport_decides() -> None:
    assert opened(load_settings(url="toy://h"))["namespace"] == "fanwire"
    assert opened(load_settings(url="toy://h?namespace=blue"))["namespace"] == "blue"
    assert opened(load_settings(url="toy://h?namespace=blue", options={"namespace": "red"}))["namespace"] == "red"


@pytest.mark.usefixtures("toy")
def test_the_query_of_a_url_has_the_precedence_of_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    write(FANWIRE, 'url = "toy://h?history=1&namespace=one"\nnamespace = "two"\n[options]\nhistory = 2')
    found = opened(load_settings())
    assert (found["history"], found["namespace"]) == (2, "two"), "within one source the option wins over the query"
    monkeypatch.setenv("FANWIRE_URL", "toy://h?history=3&namespace=three")
    found = opened(load_settings())
    assert (found["history"], found["namespace"]) == (3, "three"), "the environment wins over the file"
    found = opened(load_settings(options={"history": 4}, namespace="four"))
    assert (found["history"], found["namespace"]) == (4, "four"), "arguments win over all"


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda: write(FANWIRE, "options.history = 'x'"), "toy://: fanwire.toml: options.history: Input should be a valid integer"),
        (
            lambda: write(PYPROJECT, "[tool.fanwire.options]\nhistroy = 1"),
            "toy://: pyproject.toml: tool.fanwire.options.histroy: unknown option 'histroy'; did",
        ),
        (
            lambda: os.environ.update(FANWIRE_OPTIONS__HISTORY="x"),
            "toy://: environment variable FANWIRE_OPTIONS__HISTORY: Input should be a valid integer",
        ),
        (lambda: os.environ.update(FANWIRE_OPTIONS='{"mode": 1}'), "toy://: environment variable FANWIRE_OPTIONS: Input should be 'fast' or 'safe'"),
        (
            lambda: os.environ.update(FANWIRE_OPTIONS__TOPICS__A__B="x", FANWIRE_OPTIONS__TOPICS__C="y"),
            "toy://: environment variable FANWIRE_OPTIONS__TOPICS__A__B, FANWIRE_OPTIONS__TOPICS__C.a: Input should be a valid string",
        ),
        (
            lambda: os.environ.update(FANWIRE_URL="toy://h?history=x"),
            "toy://: parameter history in the URL (environment variable FANWIRE_URL): Input",
        ),
        (lambda: os.environ.update(FANWIRE_URL="toy:/h"), "environment variable FANWIRE_URL: has no '://'"),
        (lambda: os.environ.update(FANWIRE_URL="toy://h:port"), "environment variable FANWIRE_URL: the toy transport does not accept this URL"),
    ],
)
def test_a_wrong_option_says_which_source_it_came_from(monkeypatch: pytest.MonkeyPatch, prepare: Callable[[], None], expected: str) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    prepare()
    settings = load_settings(**({} if "FANWIRE_URL" in os.environ else {"url": "toy://h"}))
    with pytest.raises(ConfigError) as caught:
        settings.open_transport()
    assert str(caught.value).startswith(expected)


@pytest.mark.usefixtures("toy")
def test_a_realtime_is_made_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    write(FANWIRE, 'url = "toy://h"\ntimeout = 3\nconnect_timeout = 4')
    monkeypatch.setenv("FANWIRE_CONNECT_TIMEOUT", "5")
    rt = Realtime.from_config(linger=0.5)
    assert (rt.timeout, rt.connect_timeout, repr(rt)) == (3.0, 5.0, "<Realtime toy not open>")
    monkeypatch.setenv("FANWIRE_REQUIRE", "history")
    with pytest.raises(Unsupported, match="the toy transport with these options does not declare: history"):
        Realtime.from_config()


def test_a_scheme_nobody_has_is_told_as_anywhere() -> None:
    with pytest.raises(UnknownTransport, match="no transport is registered for carrier-pigeon://"):
        load_settings(url="carrier-pigeon://").open_transport()


# ---------------------------------------------------------------- secrets and values


def test_the_url_and_the_options_are_not_in_the_repr() -> None:
    settings = load_settings(url=f"redis://u:{SECRET}@h", options={"password": SECRET})
    assert SECRET in settings.url.get_secret_value()
    assert SECRET not in f"{settings!r} {settings!s}"


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({"url": f"toy://u:{SECRET}@h", "timeout": 0}, id="url-beside-an-error"),
        pytest.param({"url": [f"toy://u:{SECRET}@h"]}, id="url-of-a-wrong-type"),
        pytest.param({"url": "toy://h", "timeout": 0, "options": {"password": SECRET}}, id="option-beside-an-error"),
        pytest.param({"url": f"toy://u:{SECRET}@h", "options": {"password": [SECRET]}}, id="option-of-a-wrong-type"),
        pytest.param({"url": f"toy://u:{SECRET}@h:port"}, id="url-and-a-clumsy-driver"),
        pytest.param({"url": "toy://h", "options": SECRET}, id="in-the-place-of-the-options"),
    ],
)
def test_a_secret_is_in_no_error(overrides: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**overrides).open_transport()
    assert SECRET not in said(caught.value)


@pytest.mark.parametrize("name", ["FANWIRE_OPTIONS", "FANWIRE_OPTION__PASSWORD", "FANWIRE_TOKEN"])
def test_a_secret_variable_is_in_no_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, f'{{"password": "{SECRET}"')
    with pytest.raises(ConfigError) as caught:
        load_settings(url="memory://")
    assert name in str(caught.value)
    assert SECRET not in said(caught.value)


def test_settings_are_frozen_values() -> None:
    settings = load_settings(url="memory://", options={"a": 1})
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, "timeout", 5.0)  # noqa: B010 - a type checker refuses the plain assignment, which is the point
    assert settings == load_settings(url="memory://", options={"a": 1})
    assert settings != load_settings(url="memory://", options={"a": 2})
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.usefixtures("toy")
def test_settings_can_be_made_by_hand() -> None:
    settings = Settings.model_validate({"url": "toy://h?history=1", "namespace": "blue", "options": {"history": 3}})
    found = opened(settings)
    assert (found["history"], found["namespace"]) == (3, "blue")
    bad = Settings.model_validate({"url": "toy://h", "options": {"history": "x"}})
    with pytest.raises(ConfigError, match="toy://: options.history: Input should be a valid integer"):
        bad.open_transport()


def test_importing_the_configuration_does_not_import_pydantic_settings() -> None:
    program = "import sys, fanwire.config; before = 'pydantic_settings' in sys.modules; fanwire.config.load_settings(url='memory://'); "
    program += "print(before, 'pydantic_settings' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]
