"""Checkpoints of frozen and adapted backbones: what starts them, what they need, and what they may leave out."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from semask_d2 import build_model
from semask_d2.checkpoint import Checkpointer, load_weights, read_checkpoint, save_weights
from semask_d2.checkpoint.backbone_training import RECORD
from semask_d2.modeling.backbones.lora import is_adapter
from semask_d2.utils.errors import UserError
from tests.helpers.refusals import refusal
from tests.helpers.small_models import microsoft_swin, same, snapshot, swin_model
from tests.helpers.tiny_model import randomize, tiny_cfg

FROZEN = {"MODEL__BACKBONE__TRAIN": "frozen"}
LORA = {"MODEL__BACKBONE__TRAIN": "lora"}
VIT = {"MODEL__BACKBONE__NAME": "SeMaskViT", "MODEL__VIT__NAME": "vit_tiny_patch16_224", "MODEL__VIT__EMBED_DIM": 24}
VIT |= {"MODEL__VIT__DEPTH": 4, "MODEL__VIT__NUM_HEADS": 2, "MODEL__VIT__IMG_SIZE": 64}


def model(seed: int = 0, **options: object) -> nn.Module:
    """Return a tiny model with random parameters, also where they start as zero."""
    torch.manual_seed(seed)
    return randomize(build_model(tiny_cfg(**options))).eval()


def saved(folder: Path, trained: nn.Module, *, weights: str | Path = "", name: str = "model_final") -> Path:
    """Write a checkpoint of a model; `weights` are those that it names for frozen layers."""
    folder.mkdir(exist_ok=True)
    Checkpointer(trained, str(folder), frozen_weights=str(weights)).save(name, iteration=3)
    return folder / f"{name}.pth"


def frozen_part(trained: nn.Module) -> dict[str, Tensor]:
    return {
        f"backbone.{name}": trained.state_dict()[f"backbone.{name}"] for name in trained.backbone.pretrained_names()
    }


@pytest.mark.parametrize("options", [LORA, FROZEN])
def test_a_training_starts_from_pretrained_weights(options: dict, tmp_path: Path, caplog) -> None:
    """Adapters are new and zero at first, so the model computes what the pretrained one does."""
    source = swin_model()
    torch.save(microsoft_swin(source), tmp_path / "swin.pth")
    started = swin_model(tuning=options["MODEL__BACKBONE__TRAIN"])
    before = snapshot(started)
    with caplog.at_level(logging.INFO):
        report = load_weights(started, tmp_path / "swin.pth", training_start=True)
    pretrained = {f"backbone.{name}" for name in started.backbone.pretrained_names()}
    state, expected = started.state_dict(), source.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in pretrained)
    assert all(torch.equal(state[name], before[name]) for name in state.keys() - pretrained)
    assert any(map(is_adapter, report.missing)) == ("adapters, which start as zero" in caplog.text) == (options is LORA)


@pytest.mark.parametrize("options", [{}, FROZEN, LORA, {**LORA, **VIT}, {**FROZEN, **VIT}])
def test_a_checkpoint_loads_into_its_mode(options: dict, tmp_path: Path) -> None:
    trained = model(0, **options)
    path, other = saved(tmp_path, trained), model(1, **options)
    assert load_weights(other, path).complete
    assert same(snapshot(other), snapshot(trained))
    save_weights(trained, tmp_path / "weights.safetensors")
    other = model(1, **options)
    assert load_weights(other, tmp_path / "weights.safetensors").complete
    assert same(snapshot(other), snapshot(trained))


RANK, ALPHA = {"MODEL__BACKBONE__LORA__RANK": 4}, {"MODEL__BACKBONE__LORA__ALPHA": 4.0}
TARGETS, FREEZE = {"MODEL__BACKBONE__LORA__TARGETS": ["attn.qkv"]}, {"MODEL__BACKBONE__FREEZE_AT": 3}


@pytest.mark.parametrize(
    ("in_file", "in_config", "message"),
    [
        (LORA, {}, "it has adapters: set MODEL.BACKBONE.TRAIN lora"),
        (LORA, FROZEN, "it has adapters: set MODEL.BACKBONE.TRAIN lora"),
        ({}, LORA, "these weights have no adapters: set MODEL.BACKBONE.TRAIN full"),
        (LORA, LORA | RANK, "its adapters have the rank 8, those of this config 4: set MODEL.BACKBONE.LORA.RANK 8"),
        (LORA | RANK, LORA, "its adapters have the rank 4, those of this config 8: set MODEL.BACKBONE.LORA.RANK 4"),
        (LORA | ALPHA, LORA, "its adapters have the alpha 4, those of this config 16: set MODEL.BACKBONE.LORA.ALPHA 4"),
        (LORA | TARGETS, LORA, "check MODEL.BACKBONE.LORA.TARGETS"),
        (LORA, LORA | TARGETS, "check MODEL.BACKBONE.LORA.TARGETS"),
        (LORA, LORA | FREEZE, "FREEZE_AT"),
        (FROZEN, {}, "wrote to the outputs alone (MODEL.BACKBONE.TRAIN frozen), .* set MODEL.BACKBONE.TRAIN frozen"),
        ({}, FROZEN, "wrote to the next stage too (MODEL.BACKBONE.TRAIN full), .* set MODEL.BACKBONE.TRAIN full"),
    ],
)
def test_another_mode_is_refused_with_the_keys_to_set(in_file: dict, in_config: dict, message: str, tmp_path) -> None:
    path, other = saved(tmp_path, model(**in_file)), model(1, **in_config)
    before = snapshot(other)
    line = refusal(lambda: load_weights(other, path))
    assert line.startswith(str(path))
    assert all(part in line for part in message.split(".* "))
    assert same(snapshot(other), before)


def test_without_semantic_layers_frozen_and_full_are_the_same_model(tmp_path: Path) -> None:
    plain = {"MODEL__SWIN__NUM_SEM_BLOCKS": 0}
    path = saved(tmp_path, model(**plain, **FROZEN))
    assert load_weights(model(1, **plain), path).complete


def test_a_training_may_start_from_another_mode(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a warning where semantic layers wrote to other places; but adapters are never dropped."""
    full, frozen = saved(tmp_path / "a", model()), saved(tmp_path / "b", model(**FROZEN))
    load_weights(model(1, **FROZEN), full, training_start=True)
    assert "have to learn this anew" in caplog.text
    caplog.clear()
    load_weights(model(1), frozen, training_start=True)
    assert "have to learn this anew" in caplog.text
    caplog.clear()
    load_weights(model(1, **LORA), full, training_start=True)
    assert not caplog.text
    adapted = saved(tmp_path / "c", model(**LORA))
    for other in ({}, FROZEN, LORA | ALPHA):
        with pytest.raises(UserError, match="adapters"):
            load_weights(model(1, **other), adapted, training_start=True)


def test_files_without_a_record_are_taken_by_their_names(tmp_path: Path) -> None:
    for options in (FROZEN, LORA, {}):
        trained = model(**options)
        torch.save({"model": trained.state_dict()}, tmp_path / "plain.pth")
        assert load_weights(model(1, **options), tmp_path / "plain.pth").complete


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (7, "expected a mapping"),
        ({"mode": "most"}, "expected 'full' or 'frozen' or 'lora'"),
        ({"mode": "lora", "rank": "8", "alpha": 16}, "rank: expected a finite number"),
        ({"mode": "lora", "rank": 8}, "alpha is missing"),
        ({"mode": "lora", "rank": 8, "alpha": 16, "weights": 5}, "expected a text"),
        ({"mode": "lora", "rank": 8, "alpha": 16, "weights": "a\0b"}, "no null character"),
        ({"mode": "lora", "rank": 8, "alpha": 16, "weights": "http://127.0.0.1/x.pth"}, "download it"),
        ({"mode": "lora", "rank": 8, "alpha": 16, "weights": "gone.pth"}, "no such weight file"),
    ],
)
def test_malformed_records_are_refused(record: object, expected: str, tmp_path: Path) -> None:
    torch.save({"model": model(**LORA).state_dict(), RECORD: record}, tmp_path / "x.pth")
    line = refusal(lambda: load_weights(model(1, **LORA), tmp_path / "x.pth"))
    assert line.startswith(f"{tmp_path / 'x.pth'}: ")
    assert expected in line


@pytest.mark.parametrize("options", [LORA, FROZEN, {**LORA, **VIT}])
def test_a_checkpoint_without_frozen_layers_is_completed(options: dict, tmp_path: Path) -> None:
    trained = model(**options)
    base = tmp_path / "base.pth"
    torch.save({"model": {name: value.half() for name, value in frozen_part(trained).items()}}, base)
    load_weights_of_halves(trained, base)
    path = saved(tmp_path / "run", trained, weights=base)
    data = read_checkpoint(path)
    assert not data["model"].keys() & frozen_part(trained).keys()
    assert data["model"].keys() | frozen_part(trained).keys() == trained.state_dict().keys()
    assert data[RECORD]["weights"] == str(base)
    other = model(1, **options)
    assert load_weights(other, path).complete
    assert same(snapshot(other), snapshot(trained))


def load_weights_of_halves(trained: nn.Module, base: Path) -> None:
    """Give a model the frozen layers of the file, whose precision is lower."""
    trained.load_state_dict({n: x.float() for n, x in torch.load(base)["model"].items()}, strict=False)


@pytest.fixture
def partial(tmp_path: Path) -> tuple[nn.Module, Path, Path]:
    """Return a trained model with adapters, its checkpoint without frozen layers, and the file that has these."""
    trained = model(**LORA)
    (tmp_path / "weights").mkdir()
    base = tmp_path / "weights/base.pth"
    torch.save({"model": frozen_part(trained)}, base)
    return trained, saved(tmp_path / "run", trained, weights=base), base


def test_frozen_layers_may_lie_beside_the_checkpoint(partial, tmp_path: Path) -> None:
    trained, path, base = partial
    shutil.move(base, path.parent / base.name)
    other = model(1, **LORA)
    assert load_weights(other, path).complete
    assert same(snapshot(other), snapshot(trained))


def test_missing_frozen_layers_are_named(partial) -> None:
    _, path, base = partial
    base.unlink()
    line = refusal(lambda: load_weights(model(1, **LORA), path))
    assert line.startswith(f"{path}: it holds only what was trained (MODEL.BACKBONE.SAVE_TRAINED_ONLY)")
    assert f"those of {base}: " in line
    assert "beside the checkpoint" in line


def test_other_frozen_layers_cause_a_warning(partial, caplog: pytest.LogCaptureFixture) -> None:
    trained, path, base = partial
    load_weights(model(1, **LORA), path)
    assert "differ from those" not in caplog.text
    frozen = frozen_part(trained)
    frozen["backbone.patch_embed.proj.bias"] = frozen["backbone.patch_embed.proj.bias"] + 1e-4
    torch.save({"model": frozen}, base)
    load_weights(model(1, **LORA), path)
    assert f"the frozen layers in {base} differ from those it was trained with" in caplog.text


def test_incomplete_frozen_layers_are_refused(partial) -> None:
    trained, path, base = partial
    frozen = frozen_part(trained)
    del frozen["backbone.layers.1.blocks.0.attn.proj.bias"]
    torch.save({"model": frozen}, base)
    assert "1 missing: backbone.layers.1.blocks.0.attn.proj.bias" in refusal(
        lambda: load_weights(model(1, **LORA), path)
    )


def test_checkpoints_without_frozen_layers_may_follow_one_another(partial, tmp_path: Path) -> None:
    trained, path, _ = partial
    second = saved(tmp_path / "second", trained, weights=path)
    other = model(1, **LORA)
    assert load_weights(other, second).complete
    assert same(snapshot(other), snapshot(trained))
    data = torch.load(path)
    data[RECORD]["weights"] = str(second)
    torch.save(data, path)
    assert "too many checkpoints name one another" in refusal(lambda: load_weights(other, path))


@pytest.mark.parametrize("options", [LORA, {**LORA, **VIT}])
def test_a_first_convolution_of_other_channels_is_saved(options: dict, tmp_path: Path) -> None:
    """It was fitted to the channels at the start of training, and the frozen layers' file has it for RGB."""
    rgb = model(**{**options, "MODEL__BACKBONE__TRAIN": "full"})
    base = tmp_path / "base.pth"
    torch.save({"model": frozen_part(rgb)}, base)
    channels = {"INPUT__CHANNELS": 4, "MODEL__PIXEL_MEAN": [0.0] * 4, "MODEL__PIXEL_STD": [1.0] * 4}
    trained = model(1, **options, **channels)
    trained.load_state_dict({n: x for n, x in frozen_part(rgb).items() if x.shape[1:2] != (3,)}, strict=False)
    path = saved(tmp_path / "run", trained, weights=base)
    other = model(2, **options, **channels)
    assert load_weights(other, path).complete
    assert same(snapshot(other), snapshot(trained))
