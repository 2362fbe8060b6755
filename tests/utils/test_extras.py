"""The suggested command for a missing library installs the libraries of the extra, and never this package by name."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError

import pytest
import yaml

from semask_d2.utils import extras
from semask_d2.utils.extras import install_command
from tests.helpers.commands import ROOT

TEXTS = (".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".ipynb", "")
FOLDERS = ("semask_d2", "benchmarks", "configs", "datasets", "demo", "docs", "tests", "tools", ".ci", ".github")


def listed(extra: str) -> list[str]:
    """Return the names listed for an extra in pyproject.toml."""
    (line,) = re.findall(rf"^{extra} = (\[.*?\])", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return sorted(re.split(r"[<>=\[]", name)[0] for name in yaml.safe_load(line))


@pytest.mark.parametrize("extra", ["export", "web", "wandb", "mlflow"])
def test_it_names_the_libraries_of_the_extra(extra: str) -> None:
    pytest.importorskip("gradio", reason="the package is not installed with its extras")
    assert install_command(extra) == f"pip install {' '.join(listed(extra))}"


def test_versions_markers_and_references_to_itself_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "torch>=2",
        "a.b-c[x]<3,>=1; extra == 'web'",
        "d ; extra == 'web'",
        "semask_d2[e]; extra == 'web'",
        "f; python_version > 3",
    ]
    monkeypatch.setattr(extras, "requires", lambda name: lines)
    assert install_command("web") == "pip install a.b-c d"


@pytest.mark.parametrize("lines", [None, [], ["torch>=2"]])
def test_without_a_list_it_is_a_clones(lines: list[str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str] | None:
        if lines is None:
            raise PackageNotFoundError(name)
        return lines

    monkeypatch.setattr(extras, "requires", requires)
    assert install_command("web") == 'pip install -e ".[web]" in a clone of this project'


def test_nothing_tells_anyone_to_install_our_name_from_an_index() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    texts = {path: path.read_text(encoding="utf-8") for path in paths if path.is_file() and path.suffix in TEXTS}
    assert len(texts) > 300
    pattern = re.compile(r"""pip\d? install (-\S+ )*[\\"'`]*semask[_-]""")
    assert pattern.search('pip install -q "semask_d2[web]"')
    assert pattern.search("pip install semask-d2")
    assert not [path for path, text in texts.items() if pattern.search(text) and path.name != "test_extras.py"]
