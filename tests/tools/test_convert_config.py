"""Published configs with executable tags become literal ones, and nothing is executed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from semask_d2 import get_cfg
from semask_d2.errors import UserError

SCRIPT = Path(__file__).resolve().parents[2] / "tools/convert_config.py"
spec = importlib.util.spec_from_file_location("convert_config", SCRIPT)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

TAG = "!!python/object/apply:eval"


@pytest.mark.parametrize(
    "expression",
    ["[int(x * 0.1 * 640) for x in range(5, 21)]", "[int(0.25 * x * 512) for x in range(1, 8)]"],
)
def test_the_published_lists_are_written_out(tmp_path, expression: str) -> None:
    published = tmp_path / "published.yaml"
    published.write_text(f'INPUT:\n  MIN_SIZE_TRAIN: {TAG} ["{expression}"]\n  MAX_SIZE_TRAIN: 99 # kept\n')
    with pytest.raises(UserError, match=r"key MIN_SIZE_TRAIN.*tools/convert_config\.py"):
        get_cfg(published)
    tool.main([str(published), "--output", str(tmp_path / "literal.yaml")])
    cfg = get_cfg(tmp_path / "literal.yaml")
    assert list(cfg.INPUT.MIN_SIZE_TRAIN) == eval(expression)
    assert cfg.INPUT.MAX_SIZE_TRAIN == 99
    assert "# kept" in (tmp_path / "literal.yaml").read_text()


@pytest.mark.parametrize(
    "value",
    [
        f"{TAG} [\"__import__('os').mkdir('PROOF')\"]",
        f'{TAG} ["[int(x.real) for x in range(3)]"]',
        f'{TAG} ["[int(x * 2) for x in range(3) if x]"]',
        f'{TAG} ["[float(x * 2) for x in range(3)]"]',
        f'{TAG} ["[int(x * 2) for"]',
        '!!python/object/apply:os.mkdir ["PROOF"]',
    ],
)
def test_anything_else_is_refused_unexecuted(tmp_path, monkeypatch, value: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("published.yaml").write_text(f"INPUT:\n  MIN_SIZE_TRAIN: {value}\n")
    with pytest.raises(UserError, match=r"published\.yaml"):
        tool.main(["published.yaml", "--output", "literal.yaml"])
    assert [path.name for path in tmp_path.iterdir()] == ["published.yaml"]
