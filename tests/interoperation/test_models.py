"""Models that combine this project's backbone and heads with Detectron2's, and Detectron2's tools on our models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from semask_d2 import Predictor, build_model, get_cfg
from semask_d2.d2 import MetadataCatalog
from semask_d2.modeling.pixel_decoders import PIXEL_DECODER_REGISTRY
from semask_d2.utils.errors import UserError
from tests.helpers.commands import ROOT
from tests.helpers.detectron2_names import EventStorage
from tests.helpers.examples import NEEDS_DETECTRON2

pytestmark = NEEDS_DETECTRON2

HEADS = "Our backbone under Detectron2's heads"
TOOLS = "Predictor, Visualizer, cost"
RESNET = "Detectron2's backbone under our heads"
LAZY = "LazyConfig"
EXECUTION = "Precision and compilation in a loop of yours"
DECODER = "Your pixel decoder in our head"


def losses_of_a_step(model: nn.Module, batch: list[dict]) -> dict[str, float]:
    """Backpropagate one batch and return its losses.

    Every trainable parameter must receive a gradient, as DistributedDataParallel requires.
    """
    with EventStorage():  # Detectron2's RPN needs one
        losses = model.train()(batch)
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    values = {name: loss.item() for name, loss in losses.items()}
    assert all(np.isfinite(value) for value in values.values()), values
    return values


def small_panoptic(cfg) -> None:
    """Shrink the Panoptic FPN of the example, so that it runs quickly."""
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.SWIN.EMBED_DIM", 16, "MODEL.SWIN.DEPTHS", [1, 1, 1, 1]),
            *("MODEL.SWIN.NUM_HEADS", [1, 1, 2, 2], "MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
            *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_HEADS.NUM_CLASSES", 3),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 20, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
            *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 12),
        ]
    )


def add_instances(batch: list[dict]) -> list[dict]:
    """Add one object to each image and return the batch."""
    from detectron2.structures import BitMasks, Boxes, Instances

    for x in batch:
        masks = torch.zeros(1, 64, 64, dtype=torch.bool)
        masks[:, 8:40, 16:48] = True
        boxes = Boxes(torch.tensor([[16.0, 8.0, 48.0, 40.0]]))
        x["instances"] = Instances((64, 64), gt_boxes=boxes, gt_classes=torch.tensor([1]), gt_masks=BitMasks(masks))
    return batch


def test_our_backbone_under_detectron2s_heads(example, cfg, batch) -> None:
    detectron2 = pytest.importorskip("detectron2")
    if not Path(detectron2.__file__).with_name("model_zoo").joinpath("configs").is_dir():
        pytest.skip("a Detectron2 that was never built has no configs in its model zoo")
    panoptic_cfg = example(HEADS, cfg=cfg)["panoptic"]

    segmentor = build_model(cfg)
    assert type(segmentor).__name__ == "SemanticSegmentor"
    assert losses_of_a_step(segmentor, batch).keys() == {"loss_sem_seg"}
    with torch.no_grad():
        (output,) = segmentor.eval()([{"image": batch[0]["image"], "height": 50, "width": 70}])
    assert output["sem_seg"].shape == (12, 50, 70)

    small_panoptic(panoptic_cfg)
    panoptic = build_model(panoptic_cfg)
    assert type(panoptic.backbone.bottom_up).__name__ == "D2SeMaskSwinTransformer"
    losses = losses_of_a_step(panoptic, add_instances(batch))
    assert losses.keys() >= {"loss_sem_seg", "loss_rpn_cls", "loss_box_reg", "loss_mask"}
    with torch.no_grad():
        (output,) = panoptic.eval()([{"image": batch[0]["image"], "height": 50, "width": 70}])
    assert output["sem_seg"].shape == (12, 50, 70)
    assert output["panoptic_seg"][0].shape == (50, 70)


def test_detectron2s_backbone_under_our_heads(example, cfg, batch) -> None:
    example(RESNET, cfg=cfg)
    model = build_model(cfg)
    assert type(model.backbone).__name__ == "ResNet"
    names = losses_of_a_step(model, batch).keys()
    assert names >= {"loss_ce", "loss_mask", "loss_dice"}
    assert "loss_cate" not in names
    with torch.no_grad():
        outputs = model.eval()([{"image": x["image"], "height": 50, "width": 70} for x in batch])
    assert [output["sem_seg"].shape for output in outputs] == [(12, 50, 70)] * 2


def test_a_users_pixel_decoder_in_our_head(example, cfg, batch) -> None:
    names = example(DECODER, cfg=cfg)
    cfg.MODEL.MASK_FORMER.DEC_LAYERS = 4  # one layer for each of its three maps
    try:
        model = build_model(cfg)
        assert type(model.sem_seg_head.pixel_decoder) is names["YourPixelDecoder"]
        assert losses_of_a_step(model, batch).keys() >= {"loss_ce", "loss_cate"}
    finally:
        del PIXEL_DECODER_REGISTRY._obj_map["YourPixelDecoder"]
    with pytest.raises(
        UserError, match=r"PIXEL_DECODER_NAME.*component of your own in semask_d2\.modeling\.pixel_decoders\.PIXEL_DEC"
    ):
        build_model(cfg)


def test_a_head_without_masks_is_refused(cfg) -> None:
    cfg.MODEL.SEM_SEG_HEAD.NAME = "SemSegFPNHead"
    with pytest.raises(UserError, match=r"MODEL\.SEM_SEG_HEAD\.NAME: SemSegFPNHead outputs no masks"):
        build_model(cfg)


def test_detectron2s_predictor_visualizer_and_counters(example, cfg, tmp_path, capsys) -> None:
    model = build_model(cfg)
    with torch.no_grad():  # a fresh model predicts one class everywhere
        for embed in (model.sem_seg_head.predictor.class_embed, model.sem_seg_head.pixel_decoder.mask_features):
            embed.weight.mul_(30)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_best.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    image = np.zeros((90, 120, 3), np.uint8)
    image[20:60, 30:80] = 200, 90, 20
    names = example(TOOLS, cfg=cfg, image=image)

    labels = names["labels"].numpy()
    assert np.array_equal(labels, Predictor(cfg)(image).labels)
    assert len(np.unique(labels)) > 1

    assert names["picture"].shape == image.shape
    colors = np.array(MetadataCatalog.get("toy_scenes_val").stuff_colors)
    halves = np.zeros((100, 100), np.int64)
    halves[:, 50:] = 5
    drawn = names["Visualizer"](np.zeros((100, 100, 3), np.uint8), names["predictor"].metadata)
    drawn = drawn.draw_sem_seg(halves, alpha=1.0).get_image()
    for part, label in ((drawn[:, :45], 0), (drawn[:, 55:], 5)):
        assert np.abs(np.median(part, (0, 1)) - colors[label]).max() <= 2

    model, flops = names["predictor"].model, names["flops"].by_module()
    assert 0 < flops["model.backbone"] < flops[""]
    smaller = names["FlopCountAnalysis"](model, [{"image": torch.zeros(3, 256, 256)}]).by_module()
    # linear in the number of pixels, because the products of attention are not counted
    for part in ("backbone.patch_embed", "backbone.layers.3.semantic_layer", "sem_seg_head.pixel_decoder"):
        assert flops[f"model.{part}"] == 4 * smaller[f"model.{part}"] > 0
    printed = capsys.readouterr().out
    assert "GFLOP" in printed
    assert "sem_seg_head.pixel_decoder" in printed


def test_a_lazy_config_builds_our_model(example, cfg, batch) -> None:
    model = example(LAZY)["model"]
    assert type(model).__name__ == "SeMaskMaskFormer"
    names = losses_of_a_step(model, batch).keys()
    assert {"loss_ce", "loss_ce_0", "loss_cate"} <= names

    built = build_model(get_cfg(ROOT / "configs/toy_scenes/semask_swin_mini_msfapn_m2f.yaml", ["MODEL.DEVICE", "cpu"]))
    assert {name: p.shape for name, p in model.state_dict().items()} == {
        name: p.shape for name, p in built.state_dict().items()
    }
    built.load_state_dict(model.state_dict())
    with torch.no_grad():
        outputs = [m.eval()([{"image": batch[0]["image"]}])[0]["sem_seg"] for m in (model, built)]
    assert torch.equal(*outputs)


def test_a_custom_loop_runs_a_model_in_the_configs_precision(example, cfg, batch) -> None:
    cfg.MODEL.PRECISION = "bf16"
    model = build_model(cfg).eval()
    dtypes = []
    model.sem_seg_head.pixel_decoder.mask_features.register_forward_hook(lambda m, i, out: dtypes.append(out.dtype))
    with torch.no_grad():
        outputs = example(EXECUTION, cfg=cfg, model=model, batch=batch)["outputs"]
        model(batch)
    assert dtypes == [torch.bfloat16, torch.float32]
    assert all(output["sem_seg"].dtype == torch.float32 for output in outputs)
