"""The page docs/foundation_models.md as a user follows it: its commands on a tiny ViT, and its config examples."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from semask_d2 import Predictor, UserError, get_cfg
from tests.helpers.commands import ROOT, load_script
from tests.helpers.hub_server import Hub
from tests.helpers.pages import command_of, follow
from tests.helpers.tiny_model import randomize

PAGE = (ROOT / "docs/foundation_models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^ *```(bash|yaml)\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [command_of(block) for language, block in BLOCKS if language == "bash"]
EXAMPLES = [block for language, block in BLOCKS if language == "yaml"]
NAME = "vit_small_patch16_dinov3"
SIZES = {"embed_dim": 48, "depth": 4, "num_heads": 3}
# appended to the training to make it quick
TINY = {
    **{f"MODEL.VIT.{name.upper()}": size for name, size in SIZES.items()},
    "MODEL.DEVICE": "cpu",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "INPUT.MIN_SIZE_TRAIN": [64],
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.CROP.SIZE": [64, 64],
    "INPUT.SIZE_DIVISIBILITY": 64,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "DATALOADER.NUM_WORKERS": 0,
}


@pytest.fixture
def published(hub: Hub, tmp_path: Path) -> torch.nn.Module:
    """Publish a small DINOv3 with random weights on the hub, under the name that the page's config has."""
    body = randomize(timm.create_model(NAME, num_classes=0, **SIZES))
    safetensors.torch.save_file(body.state_dict(), tmp_path / "w.safetensors")
    repository = timm.get_pretrained_cfg(f"{NAME}.lvd1689m").hf_hub_id
    hub.repositories[repository] = {"model.safetensors": (tmp_path / "w.safetensors").read_bytes()}
    return body


def test_there_are_five_commands() -> None:
    assert [command.split()[1] for command in COMMANDS] == ["init-data", "check", "train", "predict", "export"]


@pytest.mark.slow
def test_the_commands_lead_to_an_exported_model(
    published: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx", reason="needs onnx, of the extra export")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra export")
    monkeypatch.setattr(sys, "path", list(sys.path))
    load_script("datasets/make_toy_folder.py").main(["my_photos", "--images", "8"])
    words = " ".join(shlex.quote(str(word)) for pair in TINY.items() for word in pair)
    follow([("bash", command) for command in COMMANDS], {"semask train": words})
    log = (tmp_path / "output/dino/log.txt").read_text(encoding="utf-8")
    assert f"timm://{NAME}.lvd1689m: timm model: {len(published.state_dict()) - 2} tensors matched" in log
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)  # which nobody has to resize
    exported, trained = Predictor.from_export("dino.onnx")(picture), Predictor("output/dino")(picture)
    assert (exported.labels == trained.labels).mean() > 0.999


def test_a_model_of_timm_is_named_with_its_own_normalization(tmp_path: Path) -> None:
    (tmp_path / "siglip.yaml").write_text(EXAMPLES[0])
    cfg = get_cfg(tmp_path / "siglip.yaml")
    published = timm.get_pretrained_cfg(cfg.MODEL.WEIGHTS.removeprefix("timm://"))
    assert published.architecture == cfg.MODEL.VIT.NAME
    assert [255 * x for x in published.mean] == cfg.MODEL.PIXEL_MEAN
    assert [255 * x for x in published.std] == cfg.MODEL.PIXEL_STD


def test_a_folder_is_the_backbone_of_a_config(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    sizes = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 192}
    config = transformers.AutoConfig.for_model("dinov3_vit", num_register_tokens=4, patch_size=8, **sizes)
    folder = tmp_path / "dinov3"
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}')
    (tmp_path / "mine.yaml").write_text(EXAMPLES[1].replace("/models/dinov3-vits16", str(folder)))
    cfg = get_cfg(tmp_path / "mine.yaml")
    assert str(folder) == cfg.MODEL.WEIGHTS
    assert pytest.approx([127.5, 102, 76.5]) == cfg.MODEL.PIXEL_MEAN
    vit = cfg.MODEL.VIT
    assert (f"{NAME}_qkvb", 48, 4, 3) == (vit.NAME, vit.EMBED_DIM, vit.DEPTH, vit.NUM_HEADS)
    assert vit.PATCH_SIZE == 8
    assert cfg.MODEL.META_ARCHITECTURE == "SeMaskFPN"
    with pytest.raises(UserError, match=rf"{folder}: a backbone without a head, .* MODEL.WEIGHTS {folder}, or name it"):
        get_cfg(folder)
    with pytest.raises(UserError, match="a backbone without a head"):
        Predictor(folder)
