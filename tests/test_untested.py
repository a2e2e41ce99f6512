"""The rule that nothing goes untested in silence, tested on small suites of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.untested import strict

pytest_plugins = ("pytester",)

HERE = Path(__file__).resolve().parent


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty suite with this project's conftest, outside of CI, on all loops."""
    for setting in ("CI", "FANWIRE_TEST_LOOPS"):
        monkeypatch.delenv(setting, raising=False)
    tests = pytester.mkdir("tests")
    for name in ("__init__.py", "conftest.py", "untested.py"):
        shutil.copy(HERE / name, tests / name)
    pytester.makepyprojecttoml(
        """
        [tool.pytest.ini_options]
        addopts = ["--import-mode=importlib", "-p", "no:cacheprovider", "--strict-markers"]
        testpaths = ["tests"]
        pythonpath = ["."]
        filterwarnings = ["error"]
        """
    )
    return pytester


def write(suite: pytest.Pytester, text: str) -> None:
    (suite.path / "tests" / "test_it.py").write_text("import pytest\nfrom tests.untested import require\n\n" + text, encoding="utf-8")


MISSING = "def test_there(): assert True\ndef test_missing(): require('some-server', False, 'apt install some-server')\n"


def test_a_missing_tool_is_skipped_and_named_in_capitals(suite: pytest.Pytester) -> None:
    write(suite, MISSING)
    result = suite.runpytest_subprocess()
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["NOT TESTED: SOME-SERVER: APT INSTALL SOME-SERVER (1 SKIPPED)"])
    assert result.ret == pytest.ExitCode.OK


def test_a_missing_tool_fails_with_ci_set(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    write(suite, MISSING)
    result = suite.runpytest_subprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*some-server is needed and not there: apt install some-server*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


SKIPS = {
    "called": "def test_it(): pytest.skip('called')\n",
    "marked": "@pytest.mark.skipif(True, reason='marked')\ndef test_it(): ...\n",
    "imported": "def test_it(): pytest.importorskip('no_such_module', reason='imported')\n",
    "module": "pytest.skip('module', allow_module_level=True)\n",
}


def test_any_other_skip_turns_the_run_red_with_ci_set(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    write(suite, "def test_green(): assert True\n")
    for name, text in SKIPS.items():
        (suite.path / "tests" / f"test_{name}.py").write_text(f"import pytest\n{text}", encoding="utf-8")
    assert suite.runpytest_subprocess().ret == pytest.ExitCode.OK  # the control: without CI the same suite is green
    monkeypatch.setenv("CI", "true")
    result = suite.runpytest_subprocess()
    result.stdout.fnmatch_lines_random([f"NOT TESTED: {name.upper()} (1 SKIPPED)" for name in SKIPS])
    result.stdout.fnmatch_lines(["CI is set: nothing may go untested*"])
    result.assert_outcomes(passed=1, skipped=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_an_expected_failure_is_no_skip(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    write(suite, "@pytest.mark.xfail(strict=True)\ndef test_it(): assert False\n")
    result = suite.runpytest_subprocess()
    result.assert_outcomes(xfailed=1)
    result.stdout.no_fnmatch_line("*NOT TESTED*")
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize(("value", "expected"), [("", False), ("0", False), ("False", False), ("true", True), ("1", True)])
def test_what_counts_as_ci(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    monkeypatch.setenv("CI", value)
    assert strict() is expected
    monkeypatch.delenv("CI")
    assert strict() is False


def test_every_event_loop_is_used(suite: pytest.Pytester) -> None:
    write(suite, "@pytest.mark.anyio\nasync def test_it(anyio_backend): assert anyio_backend\n")
    result = suite.runpytest_subprocess("-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines([f"*test_it[[]{loop}]*PASSED*" for loop in ("asyncio", "asyncio+uvloop", "trio")])
