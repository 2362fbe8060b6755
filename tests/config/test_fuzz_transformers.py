"""Randomly changed settings of transformers' folders: each gives a model, or a one-line `UserError`."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

import pytest
import torch

from semask_d2 import build_model, get_cfg
from semask_d2.checkpoint.transformers_folder import classes_of_folder
from semask_d2.config.transformers_config import config_for_transformers, processor_for_transformers
from tests.helpers.encoder_only import eomt_cfg
from tests.helpers.refusals import refusal
from tests.helpers.strange_values import damage
from tests.helpers.tiny_model import tiny_cfg

TRIES = 60
NAMES = ["road", "sky", "car", "tree", "house", "pole"]
DECODERS = {
    "mask2former": {"MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder"},
    "maskformer": {
        "MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "BasePixelDecoder",
        "MODEL__MASK_FORMER__TRANSFORMER_DECODER_NAME": "StandardTransformerDecoder",
        "MODEL__MASK_FORMER__TRANSFORMER_IN_FEATURE": "res5",
    },
}


def build(folder: Path) -> None:
    """Read a folder up to building the model, without its weights and without memory for the model."""
    classes_of_folder(folder)
    with torch.device("meta"):
        build_model(get_cfg(folder, ["MODEL.DEVICE", "meta"]))


VITS = {"eomt": "vit_large_patch14_reg4_dinov2", "eomt_dinov3": "vit_large_patch16_dinov3_qkvb"}


@pytest.mark.slow
@pytest.mark.parametrize("family", [*DECODERS, *VITS])
def test_changed_settings_are_a_model_or_one_line(family: str, tmp_path: Path) -> None:
    if family in VITS:
        cfg = eomt_cfg(MODEL__VIT__NAME=VITS[family])
    else:
        cfg = tiny_cfg(MODEL__SWIN__NUM_SEM_BLOCKS=0, **DECODERS[family])
    generator = random.Random(family)
    whole = json.dumps(
        {"config": config_for_transformers(cfg, NAMES), "preprocessor_config": processor_for_transformers(cfg)}
    )
    outcomes = []
    for number in range(TRIES):
        files = json.loads(whole)
        for _ in range(generator.randint(1, 2) if number else 0):
            damage(files[generator.choice(["config", "config", "preprocessor_config"])], generator)
        for name, settings in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(settings))
        message = refusal(partial(build, tmp_path))
        assert message is None or ("\n" not in message and len(message) < 500), message
        assert message is None or message.startswith((str(tmp_path), "MODEL.", "INPUT.")), message
        outcomes.append(message is None)
    assert outcomes[0]
    assert 0.1 < sum(outcomes) / TRIES < 0.7
