"""Files for contributors: the workflow runs the scripts, and the documents name only files that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from semask_d2 import __version__
from tests.helpers.commands import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
COMMANDS = [line for step in STEPS for line in step.get("run", "").splitlines()]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
FOLDERS = (".", ".github", "benchmarks", "configs", "datasets", "docs", "tests")
MAPS = ("CONTRIBUTING", "README", "SECURITY")
GENERATED = ("config_reference", "commands")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_workflow_calls_the_scripts() -> None:
    calls = [command.split() for command in COMMANDS if command.startswith(".ci/")]
    assert {script for script, *_ in calls} == {".ci/lint", ".ci/test"}
    assert {words[2] for words in calls if words[0] == ".ci/test"} == {"native", "detectron2"}
    for script, *_ in calls:
        assert os.access(ROOT / script, os.X_OK), script
        subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert not [command for command in COMMANDS if re.search(r"\b(ruff|pyright|pytest)\b", command)]


def test_the_workflow_begins_with_the_oldest_python_and_has_the_required_detectron2() -> None:
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    assert WORKFLOW["jobs"]["native"]["strategy"]["matrix"]["python"][0] == oldest
    requirements = (ROOT / "requirements-detectron2.txt").read_text(encoding="utf-8")
    assert f"@{WORKFLOW['env']['DETECTRON2_COMMIT']}\n" in requirements


def test_a_release_is_built_checked_and_published_without_a_token() -> None:
    path = ROOT / ".github/workflows/release.yml"
    release = yaml.safe_load(path.read_text(encoding="utf-8"))
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]
    assert release[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as True
    assert '.ci/wheel python "$GITHUB_REF_NAME"' in [step.get("run") for step in build["steps"]]
    assert publish["needs"] == "build"
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["if"]  # the name on PyPI is not the project's
    assert "secrets." not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("tag", ["v99.0.0", __version__, f"v{__version__}rc1"])
def test_a_tag_of_another_version_is_no_release(tag: str) -> None:
    command = [ROOT / ".ci/wheel", sys.executable, tag]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"the tag is {tag}, but semask_d2/version.py says {__version__}\n"


def test_the_citation_is_of_the_newest_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(rf"^## \[{re.escape(__version__)}\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert (citation["version"], str(citation["date-released"])) == (__version__, newest[1])
    assert citation["preferred-citation"]["title"] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_versions_of_linter_and_type_checker_stand_in_one_place() -> None:
    patterns = ("*.toml", "*.txt", "*.py", "*.md", ".*.yaml", ".ci/*", ".github/**/*.yml", "docs/*")
    pins = []
    for path in [path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()]:
        if path.suffix == ".png":
            continue
        text = path.read_text(encoding="utf-8")
        names = re.findall(r"\b(ruff|pyright)(?:-pre-commit)?(?:\[\w+\])?\s*(?:[=~<>!]=|@|rev:)\s*v?\d", text)
        pins += [(label(path), name) for name in names]
    assert sorted(pins) == [("pyproject.toml", "pyright"), ("pyproject.toml", "ruff")]


def test_pre_commit_runs_the_same_script() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    assert [hook["entry"] for hook in config["repos"][0]["hooks"]] == [".ci/lint"]


def test_the_changelogs_newest_version_is_the_packages() -> None:
    versions = re.findall(r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__


@pytest.mark.parametrize("path", FORMS, ids=label)
def test_issue_forms_ask_for_something(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem != "config":
        assert form["name"]
        assert form["description"]
        questions = [field for field in form["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in questions}) == len(questions) > 0


@pytest.mark.parametrize("path", PAGES, ids=label)
def test_links_lead_to_files(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert re.match(r"https?://", target) or (path.parent / target).exists(), target


@pytest.mark.parametrize("path", [page for page in PAGES if page.parent != ROOT or page.stem in MAPS], ids=label)
def test_files_that_are_named_are_there(path: Path) -> None:
    folders = "semask_d2|tests|configs|datasets|tools|benchmarks|demo|docs"
    for name in re.findall(rf"`((?:{folders})/[\w/.]+)`", path.read_text(encoding="utf-8")):
        assert "NAME" in name or (ROOT / name).exists() or (ROOT / "semask_d2" / name).exists(), name


def test_ci_installs_the_tools_of_the_site() -> None:
    """Check the `dev` extra: without the tools, the site's tests would skip themselves."""
    (dev,) = re.findall(r'^dev = \[\n +"semask_d2\[([\w,-]+)\]"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {"docs", "lint"} <= set(dev.split(","))
    assert 'python -m pip install -e ".[dev]"' in COMMANDS


@pytest.mark.parametrize(
    "path", [page for page in PAGES if page.parent != ROOT and page.stem not in GENERATED], ids=label
)
def test_prose_has_one_word_for_a_thing(path: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.findall(r"(?i)\bdata sets?\b|\bpictures?\b|\bproved\b|\banew\b", prose)


def test_the_maps_name_every_folder() -> None:
    package, modeling = ROOT / "semask_d2", ROOT / "semask_d2/modeling"
    folders = {path.parent for path in [*package.glob("*/__init__.py"), *modeling.glob("*/__init__.py")]}
    listed = re.findall(r"^\| `([\w/]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(listed) == {path.relative_to(package).as_posix() for path in folders if path != modeling}
    tests = (ROOT / "tests/README.md").read_text(encoding="utf-8")
    for path in [*(ROOT / "tests").glob("*/__init__.py"), *(ROOT / "tests/helpers").glob("[a-z]*.py")]:
        name = path.parent.name if path.name == "__init__.py" else path.name
        assert re.search(rf"[`/{{,]{re.escape(name)}[`/{{,]", tests), name
