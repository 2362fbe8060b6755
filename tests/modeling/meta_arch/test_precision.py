"""MODEL.PRECISION bf16: backbone and head in bfloat16, losses and labels in fp32, close to fp32's."""

from __future__ import annotations

import pytest
import torch

from semask_d2 import UserError, build_model, get_cfg
from tests.helpers.tiny_model import make_inputs, randomize, tiny_cfg

FAMILIES = {
    "mask2former": {},
    "maskformer": {
        "MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "BasePixelDecoder",
        "MODEL__MASK_FORMER__TRANSFORMER_DECODER_NAME": "StandardTransformerDecoder",
        "MODEL__MASK_FORMER__TRANSFORMER_IN_FEATURE": "res5",
    },
}


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES.keys())
def test_half_of_the_bits_give_nearly_the_same(options: dict) -> None:
    results = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = randomize(build_model(tiny_cfg(MODEL__PRECISION=precision, **options)))
        inputs = make_inputs((64, 96))
        dtypes = set()
        model.sem_seg_head.pixel_decoder.mask_features.register_forward_hook(lambda m, i, o, d=dtypes: d.add(o.dtype))
        torch.manual_seed(1)
        losses = model.train()(inputs)
        sum(losses.values()).backward()
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert dtypes == {torch.bfloat16 if precision == "bf16" else torch.float32}
        with torch.no_grad():
            (result,) = model.eval().predict(inputs, scores=True)
        assert result.scores.dtype == torch.float32
        results[precision] = losses, result
    for name, loss in results["fp32"][0].items():
        assert results["bf16"][0][name].item() == pytest.approx(loss.item(), rel=0.1, abs=0.05), name
    scores = [result.scores for _, result in results.values()]
    assert (scores[0] - scores[1]).abs().max() < 0.05 * scores[0].abs().max()


def test_semantic_fpn_too() -> None:
    cfg = get_cfg("toy_scenes/semask_swin_mini_fpn.yaml", ["MODEL.PRECISION", "bf16"])
    model = build_model(cfg)
    losses = model.train()(make_inputs((64, 96)))
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_another_word_is_refused() -> None:
    with pytest.raises(UserError, match=r'MODEL\.PRECISION: expected "fp32" or "bf16", got \'fp8\''):
        build_model(get_cfg("toy_scenes/semask_swin_mini_m2f.yaml", ["MODEL.PRECISION", "fp8"]))
