"""Beside a package of the Mask2Former kind: it has config keys and component names that ours have too."""

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

THEIR_VALUES = {
    "MODEL.MASK_FORMER.DEC_LAYERS": 3,
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.5,
    "MODEL.MASK_FORMER.THEIR_OWN": "x",
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
    "SOLVER.BACKBONE_MULTIPLIER": 0.7,
}
# registers names of ours, and of the models that ours are like, where Detectron2's other projects put theirs
THEIR_PACKAGE = """
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
        registry.register(type(name, (), {"theirs": True}))
"""
CHECK = """
from tests.helpers.commands import TINY, TOY_CONFIG

for name in ("MaskFormerHead", "MSDeformAttnPixelDecoder"):
    assert SEM_SEG_HEADS_REGISTRY.get(name).theirs
cfg = semask_d2.get_cfg(TOY_CONFIG, [*TINY, "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"])
decoder = semask_d2.build_model(cfg).sem_seg_head.pixel_decoder
assert type(decoder).__module__ == "semask_d2.modeling.pixel_decoders.msdeform", type(decoder)
print("both are there")
"""


def set_key(cfg: CfgNode, key: str, value: object) -> None:
    """Set a dotted key, making the sections that are missing."""
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


def add_their_config(cfg: CfgNode, *, replace_section: bool = True) -> None:
    """As such packages do it: a section of their own, which replaces one that is there, and single keys."""
    if replace_section:
        cfg.MODEL.MASK_FORMER = CfgNode()
    for key, value in THEIR_VALUES.items():
        set_key(cfg, key, value)


def check_complete(cfg: CfgNode) -> None:
    assert {key: get_key(cfg, key) for key in THEIR_VALUES} == THEIR_VALUES
    assert set(DEFAULTS) <= set(all_keys(cfg))


def test_keys_of_a_package_that_came_first_keep_their_values() -> None:
    cfg = get_detectron2_cfg()
    add_their_config(cfg)
    add_semask_config(cfg)
    check_complete(cfg)
    add_semask_config(cfg)
    check_complete(cfg)


def test_a_package_that_comes_later_sets_its_values() -> None:
    cfg = get_detectron2_cfg()
    add_semask_config(cfg)
    add_their_config(cfg, replace_section=False)
    check_complete(cfg)


def test_a_section_that_a_later_package_replaced_is_completed_by_a_second_call() -> None:
    cfg = get_detectron2_cfg()
    add_semask_config(cfg)
    add_their_config(cfg)
    assert "CATE_WEIGHT" not in cfg.MODEL.MASK_FORMER
    add_semask_config(cfg)
    check_complete(cfg)


def test_deeplabs_keys_and_ours_go_together() -> None:
    from detectron2.projects.deeplab import add_deeplab_config

    ours = get_cfg()
    add_deeplab_config(ours)
    theirs = get_detectron2_cfg()
    add_deeplab_config(theirs)
    add_semask_config(theirs)
    ours.MODEL.DEVICE = theirs.MODEL.DEVICE
    # where get_cfg has the published defaults, and add_semask_config leaves what another project's config says
    theirs.SOLVER.LR_SCHEDULER_NAME, theirs.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "WarmupPolyLR", "full_model"
    assert ours == theirs


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_names_clash_in_no_order_of_imports(first: str, tmp_path: Path) -> None:
    imports = [THEIR_PACKAGE, "import semask_d2\n"]
    script = tmp_path / "both.py"
    script.write_text("".join(imports if first == "theirs" else reversed(imports)) + CHECK)
    paths = f"import sys\nsys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
    script.write_text(paths + script.read_text())
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "both are there"
