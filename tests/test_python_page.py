"""Run every example of docs/python.md, with small models and data instead of those it names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import semask_d2
from semask_d2.checkpoint import readers
from tests.helpers.commands import ROOT, TINY_MODEL, TINY_TRAINING
from tests.helpers.own_data import write_data
from tests.helpers.transformers_models import reference_model

PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TINY_SETTINGS = TINY_MODEL | TINY_TRAINING


def example(words: str) -> str:
    """Return the only example that contains these words."""
    (code,) = [code for code in EXAMPLES if words in code]
    return code


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "docs/python.md", "exec"), names)
    return names


def tiny_model() -> torch.nn.Module:
    return semask_d2.create_model("toy_scenes/semask_swin_mini_m2f", **TINY_SETTINGS)


@pytest.fixture
def workplace(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create and enter a folder with the run and the image that the page names."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, tmp_path / "output/run")
    Image.new("RGB", (70, 50), (90, 120, 200)).save("image.jpg")
    return tmp_path


def test_nothing_is_left_out() -> None:
    shown = (
        "list_models",
        "prediction.shares",
        "model.loss(images, labels)  #",
        "Mask2FormerImageProcessor",
        "my.yaml",
    )
    shown += ("epochs=1", "LightningModule", "Accelerator", "save_pretrained")
    shown += ("timm://resnet18.a1_in1k", "def differences", "export_model")
    assert len(EXAMPLES) == len(shown)
    assert {example(words) for words in shown} == set(EXAMPLES)


@pytest.mark.slow
def test_models_by_name() -> None:
    assert run(example("list_models"))["model"].num_classes == 5


def test_any_timm_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    published = timm.create_model("resnet18").state_dict()
    monkeypatch.setattr(readers, "read_timm", lambda source: dict(published))
    model = run(example("timm://resnet18.a1_in1k"))["model"]
    assert torch.equal(model.state_dict()["backbone.body.conv1.weight"], published["conv1.weight"])
    torch.testing.assert_close(model.normalizer.mean.flatten(), torch.tensor([123.675, 116.28, 103.53]))
    assert not model.has_priors


def test_logits_beside_transformers(tmp_path: Path) -> None:
    reference_model("mask2former").save_pretrained(tmp_path / "model")
    images = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0)).float()
    for difference in run(example("def differences"))["differences"](tmp_path / "model", images):
        assert difference < 1e-4 * 30  # the largest logit is about 30


@pytest.mark.slow
def test_export(workplace: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra export")
    run(example("export_model"))
    assert (workplace / "model.onnx").is_file()


def test_predictions(workplace: Path) -> None:
    prediction = run(example("prediction.shares"))["prediction"]
    assert prediction.labels.shape == (50, 70)
    assert (workplace / "segmented.png").is_file()


def test_tensors(workplace: Path) -> None:
    names = run(example("model.loss(images, labels)  #"))
    assert names["first"].shape == (128, 128)
    for key in re.findall(r'"(loss_\w+)"', PAGE):
        assert key in names["losses"]


def test_postprocessing_in_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    segment = run(example("Mask2FormerImageProcessor"))["segment"]
    processor = transformers.Mask2FormerImageProcessor(size={"height": 64, "width": 96})
    image = Image.new("RGB", (90, 60), (10, 200, 90))
    model = reference_model("mask2former").eval()
    with torch.inference_mode():
        labels = segment(model, processor, image)
        outputs = model(**processor(image, return_tensors="pt"))
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(60, 90)])[0]
    assert labels.shape == (60, 90)
    assert (labels != expected).float().mean() < 0.01


@pytest.mark.slow
def test_training_in_three_lines(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(workplace).rename(workplace / "my.yaml")
    train = semask_d2.train
    settings = {**TINY_SETTINGS, "SOLVER.MAX_ITER": 2, "SOLVER.WARMUP_ITERS": 1}
    monkeypatch.setattr(semask_d2, "train", lambda *names, **options: train(*names, **options, **settings))
    code = example("my.yaml").replace("camvid/semask_timm_lite0_m2f", "toy_scenes/semask_swin_mini_m2f")
    assert run(code)["run"] == Path("output/mine")
    assert (workplace / "output/mine/model_final.pth").is_file()
    assert (workplace / "segmented.png").is_file()


class Pairs(torch.utils.data.Dataset):
    """Four images with labels."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator)
        return image, torch.randint(0, 12, (64, 64), generator=generator)


def changed(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def copied(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("words", ["epochs=1", "Accelerator"])
def test_loops(words: str) -> None:
    if words == "Accelerator":
        pytest.importorskip("accelerate", reason="needs accelerate, of the extra loops")
    model = tiny_model()
    before = copied(model)
    run(example(words))["train"](model, torch.utils.data.DataLoader(Pairs(), batch_size=2))
    assert changed(model, before)


@pytest.mark.slow
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="needs lightning, of the extra loops")
    model = tiny_model()
    before = copied(model)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, **options)
    module = run(example("LightningModule"))["Segmentation"](model)
    trainer.fit(module, torch.utils.data.DataLoader(Pairs(), batch_size=2))
    assert changed(model, before)


def test_sharing(workplace: Path) -> None:
    run(example("save_pretrained"))
    assert (workplace / "my_model/model.safetensors").is_file()
