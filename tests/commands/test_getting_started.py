"""Getting-started page (docs/getting_started.md) as a new user follows it, and its notebook executed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from semask_d2.utils.errors import UserError
from tests.helpers.commands import ROOT, TINY_MODEL, load_script
from tests.helpers.pages import command_of, follow, shortened

SCRIPT = "datasets/make_toy_folder.py"


tool, toy_folder = load_script("tools/getting_started_notebook.py"), load_script(SCRIPT)

BLOCKS = tool.BLOCK.findall(tool.PAGE.read_text(encoding="utf-8"))
COMMANDS = [command_of(block) for language, block in BLOCKS if language == "bash"]
# appended to the commands to make them quick
TINY = {**TINY_MODEL, "SOLVER.MAX_ITER": 2, "SOLVER.IMS_PER_BATCH": 2, "DATALOADER.NUM_WORKERS": 0, "TEST.PICTURES": 1}
TRAINING = " ".join(shlex.quote(str(word)) for pair in TINY.items() for word in pair)
SHORTER = {f"python {SCRIPT}": "--images 8", "semask train": TRAINING}


def copy_script(folder: Path) -> None:
    (folder / "datasets").mkdir()
    shutil.copy(ROOT / SCRIPT, folder / SCRIPT)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Run all blocks but the first and the last; return the folder, and the output of each command."""
    folder = tmp_path_factory.mktemp("start")
    copy_script(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        printed = follow(BLOCKS[1:-1], SHORTER)
    return folder, printed


def test_there_are_ten_commands() -> None:
    assert len(COMMANDS) == 10
    assert COMMANDS[0].endswith('pip install -e ".[web]"')
    assert [re.split(r" --| my_", command)[0] for command in COMMANDS[1:]] == [
        f"python {SCRIPT}",
        *(f"semask {name}" for name in ("init-data", "check", "train", "eval", "eval", "report", "predict", "web")),
    ]


@pytest.mark.slow
def test_the_commands_lead_to_a_model_and_a_report(followed: tuple[Path, dict[str, str]]) -> None:
    folder, printed = followed
    assert printed == {COMMANDS[1]: "my_data: 8 training images, 2 validation images\n"}
    assert "0: sky\n" in (folder / "my_data.yaml").read_text()
    assert "class_" not in (folder / "my_data.yaml").read_text()
    for name in ("check.html", "output/mine/report.html"):
        assert "stripes" in (folder / name).read_text(encoding="utf-8")
    results = folder / "output/mine/inference/my_data_val"
    sizes = [json.loads((results / x / "metrics.json").read_text())["sizes"] for x in ("", "previous_2", "previous_1")]
    assert sizes[0].endswith(", in windows of 96 x 96")
    assert sizes[1].startswith("shorter sides 64, 96, 128, ")
    assert sizes[1].endswith(", also flipped")
    assert sizes[2].startswith("shorter side 128, ")
    pictures = folder / "pictures"
    assert len(list(pictures.glob("*.jpg"))) + len(list(pictures.glob("*.png"))) == 2
    assert (pictures / "labels/classes.txt").read_text().startswith("0 sky\n1 water\n")


@pytest.mark.slow
def test_the_last_command_serves_the_page(followed: tuple[Path, dict[str, str]]) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", *shlex.split(COMMANDS[-1].replace("semask", "semask_d2", 1)), "--port", str(port)]
    process = subprocess.Popen(
        words, cwd=followed[0], env=with_project(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        address = next((match[1] for line in process.stdout if (match := re.search(r"page is at (\S+)", line))), None)
        assert address, "the command ended without a page"
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert answer.status == 200
    finally:
        process.kill()
        process.communicate()


def with_project() -> dict[str, str]:
    """Return the environment of a process in another folder that runs `semask` with this Python."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": path, "PATH": programs}


def test_a_toy_folder_overwrites_nothing(tmp_path: Path) -> None:
    for words, message in (([tmp_path], f"{tmp_path} exists already"), ([tmp_path / "a", "--images", 3], "at least")):
        with pytest.raises(UserError, match=message):
            toy_folder.main([str(word) for word in words])
    assert not list(tmp_path.iterdir())


def test_the_notebook_is_the_page() -> None:
    assert tool.NOTEBOOK.read_text(encoding="utf-8") == tool.as_notebook(), (
        "run python tools/getting_started_notebook.py"
    )


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    for name, value in with_project().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "docs").mkdir()
    copy_script(tmp_path)
    notebook = nbformat.read(tool.NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    commands = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.startswith("!")]
    sources = [cell.source[1:].replace("\\\n    ", "") for cell in commands]
    assert sources == COMMANDS[1:-1]
    for cell, command in zip(commands, sources, strict=True):
        cell.source = f"!{shortened(command, SHORTER)}\nassert _exit_code == 0"
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path / "docs")}})
    client.execute()
    assert (tmp_path / "output/mine/report.html").is_file()
    assert (tmp_path / "pictures/labels/classes.txt").is_file()
