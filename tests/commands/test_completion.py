"""Shell completion: the script that `semask --print-completion` prints, used by a real bash."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from semask_d2.__main__ import COMMANDS, main

pytest.importorskip("shtab", reason="needs shtab, of the extra completion")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "semask.bash"
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda text, **_: lines.append(text))
        assert main(["--print-completion", "bash"]) == 0
    path.write_text("\n".join(lines))
    return path


def completed(script: Path, *words: str) -> set[str]:
    """Return what bash offers for the last of `words`."""
    function = "$(complete -p semask | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
    array = " ".join(f"'{word}'" for word in words)
    text = f"source {script}; COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; {function}; echo ${{COMPREPLY[@]}}"
    return set(subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_bash_completes_commands_and_options(script: Path) -> None:
    assert set(COMMANDS) <= completed(script, "semask", "")
    assert completed(script, "semask", "ev") == {"eval"}
    assert {"--weights", "--config-file", "--device"} <= completed(script, "semask", "predict", "--")
    assert "--eval-only" not in completed(script, "semask", "eval", "--")


def test_other_shells_are_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "fish"])
    assert ended.value.code == 2
    assert "fish" in capsys.readouterr().err
