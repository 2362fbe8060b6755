"""Coexistence with a package like Mask2Former, which has config keys and component names in common with this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from semask_d2 import add_semask_config, get_cfg
from semask_d2.config import DEFAULTS, all_keys
from semask_d2.d2 import CfgNode
from semask_d2.d2 import get_cfg as get_detectron2_cfg
from tests.helpers.commands import ROOT
from tests.helpers.examples import NEEDS_DETECTRON2

pytestmark = NEEDS_DETECTRON2

OTHER_VALUES = {
    "MODEL.MASK_FORMER.DEC_LAYERS": 3,
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.5,
    "MODEL.MASK_FORMER.UNKNOWN_KEY": "x",
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
    "SOLVER.BACKBONE_MULTIPLIER": 0.7,
}
# registers component names of this package and of related models in Detectron2's registries, as other projects do
OTHER_PACKAGE = """
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils.registry import Registry

TRANSFORMER_DECODERS = Registry("TRANSFORMER_MODULE")
for registry, names in (
    (SEM_SEG_HEADS_REGISTRY, "MaskFormerHead BasePixelDecoder MSDeformAttnPixelDecoder TransformerEncoderPixelDecoder"),
    (BACKBONE_REGISTRY, "D2SwinTransformer"),
    (META_ARCH_REGISTRY, "MaskFormer"),
    (TRANSFORMER_DECODERS, "StandardTransformerDecoder MultiScaleMaskedTransformerDecoder"),
):
    for name in names.split():
        registry.register(type(name, (), {"is_other": True}))
"""
CHECK = """
from tests.helpers.commands import TINY, TOY_CONFIG

for name in ("MaskFormerHead", "MSDeformAttnPixelDecoder"):
    assert SEM_SEG_HEADS_REGISTRY.get(name).is_other
cfg = semask_d2.get_cfg(TOY_CONFIG, [*TINY, "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"])
decoder = semask_d2.build_model(cfg).sem_seg_head.pixel_decoder
assert type(decoder).__module__ == "semask_d2.modeling.pixel_decoders.msdeform", type(decoder)
print("both are there")
"""


def set_key(cfg: CfgNode, key: str, value: object) -> None:
    """Set a dotted key, adding missing sections."""
    *sections, leaf = key.split(".")
    for section in sections:
        if section not in cfg:
            cfg[section] = CfgNode()
        cfg = cfg[section]
    cfg[leaf] = value


def get_key(cfg: CfgNode, key: str) -> object:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def add_other_config(cfg: CfgNode, *, replace_section: bool = True) -> None:
    """Add config keys as such packages do: a section, which replaces an existing one, and single keys."""
    if replace_section:
        cfg.MODEL.MASK_FORMER = CfgNode()
    for key, value in OTHER_VALUES.items():
        set_key(cfg, key, value)


def check_complete(cfg: CfgNode) -> None:
    assert {key: get_key(cfg, key) for key in OTHER_VALUES} == OTHER_VALUES
    assert set(DEFAULTS) <= set(all_keys(cfg))


def test_keys_of_a_package_that_came_first_keep_their_values() -> None:
    cfg = get_detectron2_cfg()
    add_other_config(cfg)
    add_semask_config(cfg)
    check_complete(cfg)
    add_semask_config(cfg)
    check_complete(cfg)


def test_a_package_that_comes_later_sets_its_values() -> None:
    cfg = get_detectron2_cfg()
    add_semask_config(cfg)
    add_other_config(cfg, replace_section=False)
    check_complete(cfg)


def test_a_section_that_a_later_package_replaced_is_completed_by_a_second_call() -> None:
    cfg = get_detectron2_cfg()
    add_semask_config(cfg)
    add_other_config(cfg)
    assert "CATE_WEIGHT" not in cfg.MODEL.MASK_FORMER
    add_semask_config(cfg)
    check_complete(cfg)


def test_deeplabs_keys_and_ours_go_together() -> None:
    from detectron2.projects.deeplab import add_deeplab_config

    semask_first = get_cfg()
    add_deeplab_config(semask_first)
    deeplab_first = get_detectron2_cfg()
    add_deeplab_config(deeplab_first)
    add_semask_config(deeplab_first)
    semask_first.MODEL.DEVICE = deeplab_first.MODEL.DEVICE
    # get_cfg sets these to the published defaults, while add_semask_config keeps existing values
    deeplab_first.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    deeplab_first.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    assert semask_first == deeplab_first


@pytest.mark.parametrize("first", ["other", "semask_d2"])
def test_names_do_not_clash_in_any_order_of_imports(first: str, tmp_path: Path) -> None:
    imports = [OTHER_PACKAGE, "import semask_d2\n"]
    script = tmp_path / "both.py"
    script.write_text("".join(imports if first == "other" else reversed(imports)) + CHECK)
    paths = f"import sys\nsys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
    script.write_text(paths + script.read_text())
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "both are there"
