"""ResNet of this project, compared with Detectron2's: the same names and order, trainable parts, and features."""

from __future__ import annotations

import pytest
import torch

from semask_d2 import get_cfg
from semask_d2.d2 import BACKBONE_REGISTRY, ShapeSpec
from semask_d2.modeling.backbones import resnet
from tests.helpers.examples import NEEDS_DETECTRON2
from tests.helpers.small_models import with_statistics

pytestmark = NEEDS_DETECTRON2

SMALL = {"STEM_OUT_CHANNELS": 16, "RES2_OUT_CHANNELS": 32, "WIDTH_PER_GROUP": 8}
PLAIN, DEEPLAB = "build_resnet_backbone", "build_resnet_deeplab_backbone"
CASES = [
    (PLAIN, SMALL),
    (PLAIN, {"DEPTH": 18, "RES2_OUT_CHANNELS": 64, "NORM": "BN"}),
    (PLAIN, {"DEPTH": 34, "RES2_OUT_CHANNELS": 64, "OUT_FEATURES": ["res3", "stem"]}),
    (PLAIN, {**SMALL, "DEPTH": 101, "NUM_GROUPS": 2, "STRIDE_IN_1X1": True, "NORM": "BN"}),
    (PLAIN, {**SMALL, "RES5_DILATION": 2, "STEM_TYPE": "deeplab"}),
    (DEEPLAB, {**SMALL, "STEM_TYPE": "deeplab", "RES5_MULTI_GRID": [1, 2, 4], "RES5_DILATION": 2}),
    (DEEPLAB, {**SMALL, "DEPTH": 152, "RES4_DILATION": 2, "RES5_DILATION": 4, "NORM": "BN"}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize("freeze_at", [0, 2])
def test_both_backends_have_the_same_resnet(name: str, settings: dict[str, object], freeze_at: int) -> None:
    cfg = get_cfg("backbones/r50.yaml", ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", str(freeze_at)])
    cfg.merge_from_list([word for key, value in settings.items() for word in (f"MODEL.RESNETS.{key}", value)])
    detectron2_model = BACKBONE_REGISTRY.get(name)(cfg, ShapeSpec(channels=3))
    native_model = getattr(resnet, name)(cfg, ShapeSpec(channels=3))
    assert type(detectron2_model).__module__.startswith("detectron2.")
    assert type(native_model) is resnet.ResNet

    def facts(model: torch.nn.Module) -> list[tuple]:
        trainable = {name for name, p in model.named_parameters() if p.requires_grad}
        return [(name, value.shape, name in trainable) for name, value in model.state_dict().items()]

    assert facts(native_model) == facts(detectron2_model)
    assert [n for n, _ in native_model.named_parameters()] == [n for n, _ in detectron2_model.named_parameters()]
    assert native_model.output_shape() == detectron2_model.output_shape()
    assert native_model.size_divisibility == detectron2_model.size_divisibility
    native_model.load_state_dict(with_statistics(detectron2_model).state_dict())
    image = torch.randn(2, 3, 64, 96)
    for training in (False, True):
        features, expected = native_model.train(training)(image), detectron2_model.train(training)(image)
        assert list(features) == list(expected)
        for key in expected:
            torch.testing.assert_close(features[key], expected[key])
    sum(x.square().mean() for x in features.values()).backward()
    sum(x.square().mean() for x in expected.values()).backward()
    for parameter, reference in zip(native_model.parameters(), detectron2_model.parameters(), strict=True):
        assert (parameter.grad is None) == (reference.grad is None)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, reference.grad)
    for key, value in detectron2_model.state_dict().items():
        torch.testing.assert_close(native_model.state_dict()[key], value)
