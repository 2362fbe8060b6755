"""Export from Python: of a model in memory, of a source, and to a folder of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import semask_d2
from semask_d2.__main__ import main
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY_MODEL, TINY_TRAINING

PLAIN = TINY_MODEL | TINY_TRAINING | {"MODEL.SWIN.NUM_SEM_BLOCKS": 0}
NAME = "toy_scenes/semask_swin_mini_m2f"


def make_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


@pytest.fixture
def plain_model() -> torch.nn.Module:
    """A model without semantic layers."""
    return semask_d2.create_model(NAME, class_names=["a", "b", "c"], **PLAIN)


@pytest.mark.slow
def test_a_model_in_memory_and_a_source(tiny_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra export")
    model = semask_d2.from_pretrained(tiny_run).train()
    for name, source in (("memory", model), ("source", tiny_run)):
        agreements = semask_d2.export_model(source, tmp_path / f"{name}.onnx", outputs="scores", images=[make_image()])
        assert [agreement.shape for agreement in agreements] == [(1, 3, 64, 96)]
        assert agreements[0].error < 1e-3
    assert model.training
    labels = [semask_d2.Predictor(tmp_path / f"{name}.onnx")(make_image()).labels for name in ("memory", "source")]
    assert np.array_equal(*labels)
    exported = semask_d2.Predictor(semask_d2.from_pretrained(tmp_path / "memory.onnx"))
    assert np.array_equal(exported(make_image()).labels, labels[0])
    assert exported.class_names == list(model.description.classes.names)


def test_a_folder_of_transformers(plain_model: torch.nn.Module, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    plain_model.save_pretrained(tmp_path / "saved", format="transformers")
    assert semask_d2.export_model(plain_model, tmp_path / "exported", format="transformers") == []
    plain_model.save_pretrained(tmp_path / "ours")
    words = ["export", "--format", "transformers", "--weights", str(tmp_path / "ours")]
    assert main([*words, "--output", str(tmp_path / "command")]) == 0
    images = torch.from_numpy(make_image()).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = plain_model.eval()(images)
    normalizer = plain_model.normalizer
    for name in ("saved", "exported", "command"):
        theirs = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            outputs = theirs((images - normalizer.mean) / normalizer.std)
        torch.testing.assert_close(outputs.class_queries_logits, expected.class_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(outputs.masks_queries_logits, expected.mask_logits, atol=1e-3, rtol=1e-3)
        assert list(theirs.config.id2label.values()) == ["a", "b", "c"]
        assert semask_d2.from_pretrained(tmp_path / name).description.classes.names == ("a", "b", "c")


def test_what_is_refused(plain_model: torch.nn.Module, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plain_model.save_pretrained(tmp_path / "ours")
    semantic = semask_d2.from_pretrained(tiny_run)
    for call, message in (
        (lambda: semask_d2.export_model(plain_model, "x.engine"), "x.engine: expected a name ending in .pt2, .onnx"),
        (lambda: semask_d2.export_model(plain_model, "x", format="trt"), "got 'trt'"),
        (lambda: semask_d2.export_model(torch.nn.Identity(), "x.onnx"), "config and classes of this model are unknown"),
        (lambda: semantic.save_pretrained(tmp_path / "t", format="transformers"), "NUM_SEM_BLOCKS: transformers does"),
        (lambda: plain_model.save_pretrained(tmp_path / "x", format="onnx"), "format: expected 'semask_d2' or 'tran"),
        (lambda: plain_model.save_pretrained(tmp_path / "x", format="transformers", half=True), "neither .* nor"),
        (lambda: plain_model.save_pretrained(tmp_path / "ours", format="transformers"), "name another folder"),
        (lambda: plain_model.save_pretrained(tmp_path / "file", format="transformers"), "file"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    assert not (tmp_path / "t").exists()


def test_options_of_files_do_not_fit_a_folder(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["export", "--weights", str(tiny_run), "--format", "transformers"]
    assert main([*words, "--output", str(tmp_path / "x"), "--fp16"]) == 1
    assert "--format transformers: leave the options of files out" in capsys.readouterr().err
    assert main([*words, "--output", str(tmp_path)]) == 1
    assert "exists already; name another folder" in capsys.readouterr().err
