"""The table of exports in docs/deployment.md is written by its tool, between the page's markers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from semask_d2.utils.errors import UserError
from tests.helpers.commands import load_script
from tests.helpers.tiny_model import randomize, tiny_cfg

tool = load_script("tools/export_matrix.py")

CELL = re.compile(r"\de[-+]\d\d, \d+\.\d\d %|\(\d+\)")


def rows(page: str) -> list[list[str]]:
    text = page.partition(tool.START)[2].partition(tool.END)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def test_the_page_holds_the_whole_matrix() -> None:
    page = tool.PAGE.read_text(encoding="utf-8")
    head, _, *families = rows(page)
    assert head == ["family", *tool.COLUMNS], "run python tools/export_matrix.py"
    assert [row[0] for row in families] == list(tool.FAMILIES)
    for row in families:
        assert len(row) == len(head)
        assert all(CELL.fullmatch(cell) for cell in row[1:])
        for number in re.findall(r"\((\d+)\)", " ".join(row)):
            assert f"\n{number}. `" in page


@pytest.mark.slow
def test_it_writes_its_table_into_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    cfg = tiny_cfg()
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(tool, "FAMILIES", {"tiny": "any"})
    monkeypatch.setattr(tool, "random_model", lambda config: (randomize(tool.build_model(cfg)).eval(), cfg))
    columns = {name: tool.COLUMNS[name] for name in ("ONNX, fixed", "torch.export, dynamic")}
    monkeypatch.setattr(tool, "COLUMNS", columns)
    tool.PAGE.write_text(f"before\n{tool.START}\nolder\n{tool.END}\nafter\n")
    tool.main()
    page = tool.PAGE.read_text()
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")
    assert "older" not in page
    head, _, row = rows(page)
    assert head == ["family", *columns]
    assert row[0] == "tiny"
    assert row[2] == "(1)"
    error, share = re.fullmatch(r"(.*), (.*) %", row[1]).groups()
    assert 0 < float(error) < 1e-3
    assert float(share) > 99.9
    assert "\n1. `--dynamic: torch_export supports a fixed size" in page


def test_a_page_without_a_place_for_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
    tool.PAGE.write_text(tool.END)
    with pytest.raises(UserError, match=r"page\.md: expected the lines"):
        tool.main()
