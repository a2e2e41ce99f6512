"""The built site: complete, strict, and without anything from elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType

import pytest

from tests.sources import CHECKOUT

pytestmark = pytest.mark.checkout

BUILD = [sys.executable, "-m", "mkdocs", "build", "--strict"]
"""Not ``--quiet``: what is not logged is not counted, and then warnings are no errors."""


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mkdocs_hooks", CHECKOUT / "scripts" / "mkdocs_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    # No proxy leads anywhere: whatever the build would fetch fails.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1", "NO_PROXY": "", "no_proxy": ""}
    return subprocess.run(
        [*BUILD, "--config-file", str(config), "--site-dir", str(site)], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as ``make docs`` builds it, once for all tests."""
    path = tmp_path_factory.mktemp("site")
    done = build(CHECKOUT / "mkdocs.yml", path)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("INFO ")] == []
    return path


def inventory(site: Path) -> set[str]:
    """Return the names that other documentation can link to, which are those that have a place in this one."""
    _, _, _, _, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    return {line.split(" ", 1)[0] for line in zlib.decompress(packed).decode().splitlines()}


@pytest.mark.slow
def test_the_reference_has_every_public_name(site: Path) -> None:
    known = inventory(site)
    public = [(module, name) for module in hooks().PUBLIC for name in importlib.import_module(module).__all__]
    assert len(public) > 100
    assert [f"{module}.{name}" for module, name in public if f"{module}.{name}" not in known] == []


@pytest.mark.slow
def test_the_reference_shows_nothing_internal(site: Path) -> None:
    known = inventory(site)
    assert "fanwire.Realtime.aclose" in known
    # The kit's own private modules import public things, which are found under those names too; they have no page.
    assert {name for name in known if re.search(r"\._[a-z]", name) and not name.startswith("fanwire.testing._bugs_of_")} == set()
    exports = {module: set(importlib.import_module(module).__all__) for module in hooks().PUBLIC}
    # What a module has imported from another public one is found there under its name, too.
    public = set().union(*exports.values()) | {module.rpartition(".")[2] for module in exports}
    shown = {name for name in known for module in exports if name.startswith(f"{module}.") and name.count(".") == module.count(".") + 1}
    assert {name for name in shown if name.rpartition(".")[2] not in public} == set()


@pytest.mark.slow
def test_every_page_is_built(site: Path) -> None:
    for page in (CHECKOUT / "docs").rglob("*.md"):
        relative = page.relative_to(CHECKOUT / "docs").with_suffix("")
        place = relative.parent if relative.name == "index" else relative
        assert (site / place / "index.html").is_file(), page


@pytest.mark.slow
def test_a_reader_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r"<(?:link|script|img|iframe|source)\b[^>]*?(?:href|src)=[\"']?(?:https?:)?//[^\"'\s>]*", re.IGNORECASE)
    styles = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^\"')]*")
    found = {match[0] for page in site.rglob("*.html") for match in loaded.finditer(page.read_text(encoding="utf-8"))}
    found |= {match[0] for sheet in site.rglob("*.css") for match in styles.finditer(sheet.read_text(encoding="utf-8"))}
    assert found == set()


@pytest.mark.slow
def test_docstrings_are_read_as_they_are_written(site: Path) -> None:
    pages = [page.read_text(encoding="utf-8") for page in (site / "reference").rglob("index.html")]
    assert len(pages) > 10
    assert [found for page in pages for found in re.findall(r":(?:class|meth|func|mod|attr):.{0,40}", page)] == []
    assert any('href="#fanwire.Realtime.publish"' in page for page in pages)


@pytest.mark.slow
def test_a_warning_is_an_error(tmp_path: Path) -> None:
    page = "[gone](nowhere.md)\n\n[gone](#nowhere)\n\n[`Gone`][fanwire.Gone]\n"
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n{page}\n", encoding="utf-8")
    config = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8")
    config = re.sub(r"^(nav|extra_css):\n(?:  .*\n)+", "", config, flags=re.MULTILINE)
    config = config.replace("scripts/", f"{CHECKOUT}/scripts/").replace("[core, transports, contrib]", f"[{CHECKOUT}/core]")
    (tmp_path / "mkdocs.yml").write_text(config, encoding="utf-8")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert [complaint for complaint in ("'nowhere.md'", "'#nowhere'", "'fanwire.Gone'") if complaint not in done.stderr] == []


def test_a_docstring_becomes_markdown() -> None:
    text = "URLs.\n\nURLs\n    ``a://``\n\n    and b.\n\nSee :class:`~fanwire.Start` and :meth:`resume`.\n\nExample::\n\n    rt = await open()\n\n    rt.close()\n\nThe tree::\n\n    A\n    └── ``b``\n\nEnd."
    assert hooks().plain(text) == (
        "URLs.\n\n**URLs**\n\n``a://``\n\nand b.\n\nSee `Start` and `resume`.\n\n*Example:*\n\n```python\nrt = await open()\n\nrt.close()\n```\n\nThe tree:\n\n```text\nA\n└── b\n```\n\nEnd."
    )


def test_the_first_mention_of_a_name_is_linked() -> None:
    known = {"Gap": "fanwire.Gap", "rt.publish": "fanwire.Realtime.publish"}
    text = "# `Gap`\n\nA `Gap`, a `Gap`, [`rt.publish`](x.md), `rt.publish()`, `other`.\n\n```python\n`Gap`\n```\n"
    linked: str = hooks().linked(text, known)
    assert "A [`Gap`][fanwire.Gap], a `Gap`, [`rt.publish`](x.md), [`rt.publish()`][fanwire.Realtime.publish], `other`." in linked
    assert linked.startswith("# `Gap`\n")
    assert linked.endswith("```python\n`Gap`\n```\n")
