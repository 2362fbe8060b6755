"""Registries and builders, `Backbone`, `ShapeSpec`, and `ImageList`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semask_d2.d2 import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    ImageList,
    ShapeSpec,
    build_backbone,
    build_model,
    build_sem_seg_head,
    configurable,
    get_cfg,
)


class ToyBackbone(Backbone):
    def __init__(self, cfg, input_shape):
        super().__init__()
        self.stem = nn.Conv2d(input_shape.channels, 8, 4, stride=4)
        self._out_features = ["res2"]
        self._out_feature_channels = {"res2": 8, "unused": 1}
        self._out_feature_strides = {"res2": 4, "unused": 1}

    def forward(self, image):
        return {"res2": self.stem(image)}


class ToyHead(nn.Module):
    @configurable
    def __init__(self, *, channels, num_classes):
        super().__init__()
        self.predict = nn.Conv2d(channels, num_classes, 1)

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {"channels": input_shape["res2"].channels, "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}


class ToySegmenter(nn.Module):
    @configurable
    def __init__(self, *, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        return {"backbone": backbone, "head": build_sem_seg_head(cfg, backbone.output_shape())}


def not_a_backbone(cfg, input_shape):
    return nn.Identity()


@pytest.fixture(scope="module", autouse=True)
def _registered():
    registered = (
        (BACKBONE_REGISTRY, ToyBackbone),
        (BACKBONE_REGISTRY, not_a_backbone),
        (SEM_SEG_HEADS_REGISTRY, ToyHead),
        (META_ARCH_REGISTRY, ToySegmenter),
    )
    for registry, item in registered:
        assert registry.register()(item) is item
    yield
    for registry, item in registered:
        del registry._obj_map[item.__name__]


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "ToySegmenter"
    cfg.MODEL.BACKBONE.NAME = "ToyBackbone"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "ToyHead"
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_a_model_is_built_from_registered_parts(cfg):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    model = build_model(cfg)
    scores = model.head.predict(model.backbone(torch.zeros(1, 3, 8, 8))["res2"])
    assert scores.shape == (1, 5, 2, 2)


def test_a_model_is_built_on_the_configs_device(cfg):
    cfg.MODEL.DEVICE = "meta"
    assert {parameter.device.type for parameter in build_model(cfg).parameters()} == {"meta"}


def test_a_backbones_input_has_a_channel_per_pixel_mean_unless_said_otherwise(cfg):
    cfg.MODEL.PIXEL_MEAN = [0.0]
    assert build_backbone(cfg).stem.in_channels == 1
    assert build_backbone(cfg, ShapeSpec(channels=4)).stem.in_channels == 4


def test_what_is_registered_as_a_backbone_must_be_one(cfg):
    cfg.MODEL.BACKBONE.NAME = "not_a_backbone"
    with pytest.raises(AssertionError):
        build_backbone(cfg)


@pytest.mark.parametrize(
    ("registry", "name"),
    [(BACKBONE_REGISTRY, "BACKBONE"), (SEM_SEG_HEADS_REGISTRY, "SEM_SEG_HEADS"), (META_ARCH_REGISTRY, "META_ARCH")],
)
def test_an_unknown_name_is_an_error_that_names_the_registry(registry, name):
    assert "NoSuchPart" not in registry
    with pytest.raises(KeyError, match=f"NoSuchPart.*{name}"):
        registry.get("NoSuchPart")


def test_a_name_is_registered_once():
    assert "ToyBackbone" in BACKBONE_REGISTRY
    with pytest.raises(AssertionError, match="already registered"):
        BACKBONE_REGISTRY.register(ToyBackbone)


def test_a_backbone_describes_its_outputs(cfg):
    backbone = build_backbone(cfg)
    assert backbone.output_shape() == {"res2": ShapeSpec(channels=8, stride=4)}
    assert backbone.size_divisibility == 0


def test_a_backbone_needs_a_forward():
    with pytest.raises(TypeError, match="abstract"):
        Backbone()


def test_shape_spec_is_unknown_by_default():
    spec = ShapeSpec(stride=4)
    assert (spec.channels, spec.height, spec.width, spec.stride) == (None, None, None, 4)


def test_images_are_padded_at_the_right_and_the_bottom_to_the_largest():
    wide, high = torch.ones(3, 2, 5), torch.ones(3, 4, 3)
    images = ImageList.from_tensors([wide, high], pad_value=7.0)
    assert images.tensor.shape == (2, 3, 4, 5)
    assert images.image_sizes == [(2, 5), (4, 3)]
    assert len(images) == 2
    for index, image in enumerate((wide, high)):
        assert torch.equal(images[index], image)
        assert (images.tensor[index] == 7).sum() == images.tensor[index].numel() - image.numel()


@pytest.mark.parametrize("count", [1, 2])
def test_images_are_padded_to_a_multiple_without_a_change_of_type_or_of_the_original(count):
    original = torch.ones(3, 5, 8, dtype=torch.uint8)
    images = ImageList.from_tensors([original] * count, 4)
    assert images.tensor.shape == (count, 3, 8, 8)
    assert images.tensor.dtype == torch.uint8
    images.tensor.zero_()
    assert original.all()


def test_an_image_that_needs_no_padding_is_copied_too():
    original = torch.ones(3, 4, 4)
    ImageList.from_tensors([original], 4).tensor.zero_()
    assert original.all()


def test_labels_without_channels_are_padded_with_the_ignore_value():
    labels = ImageList.from_tensors([torch.zeros(2, 2, dtype=torch.int64)], 4, pad_value=255)
    assert labels.tensor.tolist() == [[[0, 0, 255, 255]] * 2 + [[255] * 4] * 2]


def test_images_of_different_channels_do_not_make_a_batch():
    with pytest.raises(AssertionError):
        ImageList.from_tensors([torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)])
