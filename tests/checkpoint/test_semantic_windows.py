"""Windows of semantic layers, which no tensor shape reveals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semask_d2.checkpoint import load_weights
from semask_d2.checkpoint.semantic_windows import describe, windows_of_file, windows_of_model, windows_of_released
from semask_d2.engine import Checkpointer
from tests.helpers.small_models import mit_model, released, snapshot, swin_model


@pytest.mark.parametrize(
    ("decoder", "classes", "embed", "window", "expected"),
    [
        ("Mask2Former", 150, 192, 12, [12, 12, 12, None]),
        ("Mask2Former", 19, 192, 12, [7, 7, 7, 7]),
        ("Mask2Former", 65, 192, 12, None),
        ("FaPN", 150, 192, 12, [12, 12, None, None]),
        ("MSFaPN", 150, 192, 12, [12, 12, None, None]),
        ("MaskFormer", 150, 192, 12, [12, 12, 12, None]),
        ("FPN", 150, 96, 7, [7, 7, None, None]),
        ("FPN", 171, 192, 12, [12, 12, None, None]),
        ("FPN", 150, 128, 12, [12, 12, 12, 12]),
        ("FPN", 19, 96, 7, [7, 7, 7, 7]),
        ("FPN", 19, 192, 12, [12, 12, 12, 12]),
    ],
)
def test_rules_of_the_released_models(
    decoder: str, classes: int, embed: int, window: int, expected: list[int | None] | None
) -> None:
    state = {
        "backbone.layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros((2 * window - 1) ** 2, 3),
        "backbone.layers.0.semantic_layer.class_injection.0.mlp_cls_q.weight": torch.zeros(classes, embed),
        "backbone.layers.1.semantic_layer.class_injection.0.mlp_cls_q.weight": torch.zeros(classes, 2 * embed),
    }
    assert windows_of_released(decoder, state) == expected


def test_rules_of_models() -> None:
    assert windows_of_model(swin_model(stages=(0, 2))) == [4, None, 4, None]
    assert windows_of_model(mit_model()) == [4, 4, None, None]
    assert windows_of_model(swin_model(num_blocks=0)) == []
    assert describe([4, None, 4, None]) == "SEM_WINDOWED_STAGES [0, 2] and SEM_WINDOW_SIZE 4"
    assert describe([None, None]) == "SEM_WINDOWED_STAGES []"


def messages(log: pytest.LogCaptureFixture, level: str) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelname == level and "SEM_W" in record.message]


@pytest.mark.parametrize(
    ("decoder", "right"), [("MSFaPN", (0, 1)), ("FaPN", (0, 1)), ("MaskFormer", (0, 1, 2)), ("FPN", (0, 1, 2, 3))]
)
def test_a_released_model_under_another_rule_is_warned_of(
    tmp_path: Path, log: pytest.LogCaptureFixture, decoder: str, right: tuple[int, ...]
) -> None:
    torch.save(released(decoder, snapshot(swin_model(decoder))), tmp_path / "w.pth")
    load_weights(swin_model(decoder, stages=right), tmp_path / "w.pth")
    assert messages(log, "WARNING") == []
    assert f"those of the released {decoder}, SEM_WINDOWED_STAGES {list(right)}" in messages(log, "INFO")[0]
    log.clear()
    load_weights(swin_model(decoder, stages=(1, 3)), tmp_path / "w.pth")
    (warning,) = messages(log, "WARNING")
    assert f"released {decoder} has SEM_WINDOWED_STAGES {list(right)}" in warning
    assert "this config has SEM_WINDOWED_STAGES [1, 3]" in warning


def test_the_cityscapes_models_window_is_part_of_the_rule(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    torch.save(released("Mask2Former", snapshot(swin_model("Mask2Former"))), tmp_path / "w.pth")
    load_weights(swin_model("Mask2Former", stages=(0, 1, 2, 3)), tmp_path / "w.pth")
    (warning,) = messages(log, "WARNING")
    assert "SEM_WINDOWED_STAGES [0, 1, 2, 3] and SEM_WINDOW_SIZE 7, but this config" in warning
    assert "SEM_WINDOWED_STAGES [0, 1, 2, 3] and SEM_WINDOW_SIZE 4: " in warning


def test_our_checkpoints_record_their_rule(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    Checkpointer(swin_model(stages=(0, 3)), str(tmp_path)).save("model_final")
    load_weights(swin_model(stages=(0, 3)), tmp_path / "model_final.pth")
    assert messages(log, "WARNING") == []
    load_weights(swin_model(stages=(2,)), tmp_path / "model_final.pth")
    (warning,) = messages(log, "WARNING")
    assert "semask_d2 checkpoint has SEM_WINDOWED_STAGES [0, 3]" in warning
    assert "this config has SEM_WINDOWED_STAGES [2]" in warning


def test_where_nothing_tells_the_log_names_the_configs_rule(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    torch.save({"model": snapshot(swin_model())}, tmp_path / "w.pth")
    load_weights(swin_model(stages=(1, 2)), tmp_path / "w.pth")
    assert messages(log, "WARNING") == []
    assert "those of the config, SEM_WINDOWED_STAGES [1, 2]" in messages(log, "INFO")[0]


@pytest.mark.parametrize("record", ["0 1", [1.5], [[0]], {"a": 1}, [], torch.ones(4)])
def test_a_damaged_record_counts_as_none(record: object) -> None:
    assert windows_of_file({"semantic_windows": record}) is None
