"""Documentation site: it builds without warnings, loads nothing from the network, and its links are correct."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, load_script

pytest.importorskip("mkdocs", reason='the site\'s tools are not installed: pip install -e ".[docs]"')
pytest.importorskip("material", reason='the site\'s theme is not installed: pip install -e ".[docs]"')
pytest.importorskip("mkdocstrings", reason='the site\'s tools are not installed: pip install -e ".[docs]"')

pages = load_script("tools/site_pages.py")
ENVIRONMENT = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
# elements that make a browser fetch something when it shows a page
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\ssrc=[\"']?(?:https?:)?//[^>]*>"
    r"|<link\b(?=[^>]*rel=[\"']?(?:stylesheet|preconnect|preload|icon))[^>]*href=[\"']?(?:https?:)?//[^>]*>"
)


def build(folder: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess:
    # not --quiet, which would hide warnings from --strict too
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_it_holds_the_pages_of_docs_and_those_beside_them(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.with_suffix(".html").name).is_file(), page
    for page in pages.PAGES:
        place = page.replace("README.md", "index.md")
        assert (site / pages.PREFIX / place).with_suffix(".html").is_file(), page


@pytest.mark.slow
def test_pages_load_nothing_from_the_network(site: Path) -> None:
    assert FETCHED.search('<script async src="https://x.org/a.js"></script>')
    assert FETCHED.search("<link href=//fonts.org/x rel=stylesheet>")
    for page in site.rglob("*.html"):
        assert not FETCHED.search(page.read_text(encoding="utf-8")), page
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


@pytest.mark.slow
def test_the_public_names_are_described_from_the_code(site: Path) -> None:
    import semask_d2

    text = (site / "api.html").read_text(encoding="utf-8")
    for name in set(semask_d2.__all__) - {"__version__"}:
        assert f'id="semask_d2.{name}"' in text, name
    assert 'id="semask_d2.Predictor.__call__"' in text


@pytest.mark.slow
@pytest.mark.parametrize("link", ["gone.md", "install.md#gone", "../gone/README.md"])
def test_a_broken_link_fails_the_build(link: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(f"# Home\n\n[x]({link})\n")
    (tmp_path / "docs/install.md").write_text("# Install\n")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    settings = text[text.index("validation:") : text.index("\nnav:")]
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"site_name: x\nstrict: true\nhooks: [{ROOT / 'tools/site_pages.py'}]\n{settings}\n")
    done = build(tmp_path / "site", config)
    assert done.returncode != 0
    assert "gone" in done.stderr


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("weights.md", "[zoo](../MODEL_ZOO.md)", "[zoo](repository/MODEL_ZOO.md)"),
        ("weights.md", "[x](../SECURITY.md#reporting)", "[x](repository/SECURITY.md#reporting)"),
        ("weights.md", "[x](../configs/README.md)", "[x](repository/configs/README.md)"),
        ("scale.md", "[x](weights.md#formats)", "[x](weights.md#formats)"),
        ("scale.md", "![x](prediction.png)", "![x](prediction.png)"),
        ("scale.md", "[x](../README.md)", "[x](index.md)"),
        ("repository/MODEL_ZOO.md", "[c](configs/README.md)", "[c](configs/README.md)"),
        ("repository/MODEL_ZOO.md", "[c](configs/ade20k/r50_m2f.yaml)", "c"),
        ("repository/benchmarks/README.md", "[a](../docs/ablation.md)", "[a](../../ablation.md)"),
        ("repository/configs/README.md", "[a](../datasets/)", "[a](../datasets/README.md)"),
        ("repository/CONTRIBUTING.md", "[https](https://x.org/a.md)", "[https](https://x.org/a.md)"),
        ("repository/CONTRIBUTING.md", "[gone](docs/no_page.md)", "[gone](../no_page.md)"),
    ],
)
def test_links_lead_to_their_place_in_the_site(source: str, link: str, expected: str) -> None:
    assert pages.rewrite(link, source, None) == expected


def test_links_to_source_code_lead_to_the_repository_if_its_address_is_known() -> None:
    link = "[camvid.py](semask_d2/data/datasets/camvid.py)"
    expected = "[camvid.py](https://x.org/a/b/blob/main/semask_d2/data/datasets/camvid.py)"
    assert pages.rewrite(link, "repository/CONTRIBUTING.md", "https://x.org/a/b/") == expected
