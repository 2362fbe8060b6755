"""The files of configs/: their structure, and the agreement of recipes with the published ones."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from semask_d2.config import all_keys, get_cfg
from semask_d2.d2 import BACKBONE_REGISTRY, CfgNode

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PARTS = ("data", "backbones", "recipes")  # folders of base files, in the order of `_BASE_`; other files are runs
RUNS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in PARTS)
SECTIONS = {
    "D2SeMaskSwinTransformer": "SWIN",
    "D2SeMaskMixTransformer": "MIT",
    "SeMaskTimm": "TIMM",
    "SeMaskViT": "VIT",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


def values_of(path: Path) -> dict[str, Any]:
    """Return the values that a file itself states, by dotted key."""
    node = CfgNode(yaml.safe_load(path.read_text(encoding="utf-8")))
    return {key: value_at(node, key) for key in all_keys(node)}


def value_at(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def files_of(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (CONFIGS / folder).glob("*.yaml"))


def bases_of(path: Path) -> list[Path]:
    bases = values_of(path).get("_BASE_", [])
    return [(path.parent / base).resolve() for base in ([bases] if isinstance(bases, str) else bases)]


# Every run


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_every_run_loads(path: Path) -> None:
    cfg = get_cfg(path)
    assert f"output/{name_of(path)}" == cfg.OUTPUT_DIR  # a different folder for each run
    assert cfg.DATASETS.TRAIN
    assert cfg.DATASETS.TEST
    assert cfg.INPUT.FORMAT == "RGB"
    mean = [127.0] * 3 if "lite0" in path.stem else [123.675, 116.28, 103.53]  # of its pretrained weights
    assert pytest.approx(mean) == cfg.MODEL.PIXEL_MEAN
    assert cfg.MODEL.BACKBONE.NAME in BACKBONE_REGISTRY
    assert cfg.SOLVER.OPTIMIZER == "ADAMW"
    again = get_cfg(None, [])
    again.merge_from_other_cfg(CfgNode(cfg))
    assert again == cfg


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_a_run_is_data_backbone_and_recipe(path: Path) -> None:
    bases = bases_of(path)
    assert tuple(base.parent.name for base in bases) == PARTS
    assert bases[0].stem == path.parent.name


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_windowed_stages_stand_in_the_section_of_the_runs_backbone_alone(path: Path) -> None:
    """In a wrong section they would be ignored, and the backbone would use the defaults.

    Plain models, without "semask" in their names, have none.
    """
    name = get_cfg(path).MODEL.BACKBONE.NAME
    stated = [key for key in values_of(path) if key.endswith(("SEM_WINDOWED_STAGES", "NUM_SEM_BLOCKS"))]
    plain = not path.stem.startswith("semask_")
    if name == "build_resnet_backbone":
        assert (stated, plain) == ([], True)
    else:
        assert stated == [f"MODEL.{SECTIONS[name]}.{'NUM_SEM_BLOCKS' if plain else 'SEM_WINDOWED_STAGES'}"]


def test_what_runs_state_besides_their_model() -> None:
    """Only two published models differ from their recipe; all other training settings are in the recipes."""
    stated = {(name_of(path), key): value for path in RUNS for key, value in values_of(path).items()}
    foreign = {
        (name, key): value
        for (name, key), value in stated.items()
        if key not in ("_BASE_", "OUTPUT_DIR") and not key.startswith("MODEL.")
    }
    assert foreign == {
        ("ade20k/semask_swin_t_fpn", "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA"): 0.75,
        ("cityscapes/semask_swin_b_fpn", "SOLVER.WARMUP_FACTOR"): 1e-6,
        **{
            (f"coco_{task}/{model}", f"SOLVER.{key}"): value  # twice as long as the smaller ones
            for task in ("panoptic", "instance")
            for model in ("swin_l_m2f", "semask_swin_l_m2f")
            for key, value in {"MAX_ITER": 737500, "STEPS": [655556, 710184]}.items()
        },
    }


# Parts


@pytest.mark.parametrize("path", files_of("data"), ids=name_of)
def test_data_files_hold_the_dataset_alone(path: Path) -> None:
    keys = {"VERSION", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "DATASETS.TRAIN", "DATASETS.TEST"}
    assert values_of(path).keys() == keys


@pytest.mark.parametrize("path", files_of(*PARTS), ids=name_of)
def test_no_part_decides_for_a_run(path: Path) -> None:
    assert not [key for key in values_of(path) if key.endswith("SEM_WINDOWED_STAGES") or key == "OUTPUT_DIR"]


@pytest.mark.parametrize("path", files_of("recipes"), ids=name_of)
def test_recipes_start_from_recipes_and_know_no_dataset(path: Path) -> None:
    assert all(base.parent.name == "recipes" for base in bases_of(path))
    keys = values_of(path).keys()
    assert not [key for key in keys if key.endswith("NUM_CLASSES") or key.startswith("DATASETS.")]


def test_every_recipe_and_data_file_is_in_use() -> None:
    used: set[Path] = set()
    paths = list(RUNS)
    while paths:
        bases = bases_of(paths.pop())
        used.update(bases)
        paths += bases
    assert set(files_of("data", "recipes")) <= used


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_semantic_fpn_pads_to_the_crop_and_knows_norms_by_name(path: Path) -> None:
    cfg = get_cfg(path)
    is_fpn = path.stem.endswith("_fpn")
    assert ("names" if is_fpn else "modules") == cfg.SOLVER.NORM_PARAMETERS
    if is_fpn:
        assert list(cfg.INPUT.CROP.SIZE) == [cfg.INPUT.SIZE_DIVISIBILITY] * 2


# The published models


def sizes(side: int, longest: int, pad: int) -> dict[str, Any]:
    """Return the sizes that follow from a recipe's size: test size, multi-scale test sizes, padding."""
    return {
        "INPUT.MIN_SIZE_TEST": side,
        "INPUT.MAX_SIZE_TEST": longest,
        "TEST.AUG.MIN_SIZES": [side * quarters // 4 for quarters in range(2, 8)],
        "TEST.AUG.FLIP": True,
        "INPUT.SIZE_DIVISIBILITY": pad,
        "INPUT.COLOR_AUG_SSD": True,
    }


def tenths(side: int) -> list[int]:
    return [int(x * 0.1 * side) for x in range(5, 21)]


SOLVER_KEYS = (
    *("MAX_ITER", "IMS_PER_BATCH", "BASE_LR", "WEIGHT_DECAY", "BACKBONE_MULTIPLIER", "POLY_LR_POWER"),
    *("WARMUP_ITERS", "WARMUP_FACTOR", "AMP.ENABLED", "CLIP_GRADIENTS.ENABLED"),
)


def solver(*values: Any) -> dict[str, Any]:
    return {f"SOLVER.{key}": value for key, value in zip(SOLVER_KEYS, values, strict=True)}


def crop(scales: list[int], size: list[int], largest: float = 1.0, sampling: str = "choice") -> dict[str, Any]:
    return {
        "INPUT.MIN_SIZE_TRAIN": scales,
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": sampling,
        "INPUT.CROP.TYPE": "absolute",
        "INPUT.CROP.SIZE": size,
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": largest,
    }


def head(decoder: str, class_weight: float, mask: float, dice: float, dropout: float, losses: int) -> dict[str, Any]:
    return {
        "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": decoder,
        "MODEL.MASK_FORMER.CLASS_WEIGHT": class_weight,
        "MODEL.MASK_FORMER.MASK_WEIGHT": mask,
        "MODEL.MASK_FORMER.DICE_WEIGHT": dice,
        "MODEL.MASK_FORMER.DROPOUT": dropout,
        "MODEL.MASK_FORMER.DEC_LAYERS": losses,
        "MODEL.MASK_FORMER.CATE_WEIGHT": 0.4,
        "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.1,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 100,
        "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 2048,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.01,
    }


M2F_HEAD = head("MSDeformAttnPixelDecoder", 2, 5, 5, 0, 10)
M2F = {
    **(M2F_HEAD | solver(160000, 16, 1e-4, 0.05, 0.1, 0.9, 0, 1, True, True)),
    **(crop(tenths(640), [640, 640]) | sizes(640, 2560, 640)),
}
M2F_CITY = {
    **(M2F_HEAD | solver(90000, 16, 1e-4, 0.05, 0.1, 0.9, 0, 1, True, True)),
    **(crop(tenths(1024), [512, 1024]) | sizes(1024, 2048, -1) | {"MODEL.SWIN.SEM_WINDOW_SIZE": 7}),
}
MF = {
    **(head("BasePixelDecoder", 1, 20, 1, 0.1, 6) | solver(160000, 16, 6e-5, 0.01, 1, 0.9, 1500, 1e-6, False, True)),
    **(crop([640 * quarters // 4 for quarters in range(1, 8)], [640, 640]) | sizes(640, 2560, 640)),
}
FPN_SOLVER = solver(80000, 16, 1e-4, 1e-4, 1, 1, 1500, 1e-6, False, False)
FPN_512 = FPN_SOLVER | crop([256, 384, 512, 640, 768, 896], [512, 512]) | sizes(512, 2048, 512)
FPN_640 = FPN_SOLVER | crop([320, 480, 640, 800, 960, 1120], [640, 640]) | sizes(640, 2560, 640)
FPN_CITY = {
    **solver(80000, 8, 1e-3, 0.05, 1, 1, 1500, 1e-5, False, False),
    **(crop([512, 2048], [768, 768], 0.75, "range") | sizes(1024, 2048, 768)),
}
OHEM = {"MODEL.SEM_SEG_HEAD.OHEM_PIXELS": 100_000}
FAPN, MSFAPN = (
    {"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": name} for name in ("PixelFANDecoder", "MSDeformAttnPixelFANDecoder")
)
# windowed stages (the others attend globally), and the values of the recipe
PUBLISHED = {
    "ade20k/semask_swin_l_m2f": ([0, 1, 2], M2F),
    "ade20k/semask_swin_l_fapn_m2f": ([0, 1], M2F | FAPN),
    "ade20k/semask_swin_l_msfapn_m2f": ([0, 1], M2F | MSFAPN),
    "ade20k/semask_swin_l_mf": ([0, 1, 2], MF),
    "cityscapes/semask_swin_l_m2f": ([0, 1, 2, 3], M2F_CITY),
    "ade20k/semask_swin_t_fpn": ([0, 1], FPN_512 | {"INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 0.75}),
    "ade20k/semask_swin_s_fpn": ([0, 1], FPN_512),
    "ade20k/semask_swin_b_fpn": ([0, 1, 2, 3], FPN_512),
    "ade20k/semask_swin_l_fpn": ([0, 1], FPN_640 | OHEM),
    "cityscapes/semask_swin_t_fpn": ([0, 1, 2, 3], FPN_CITY),
    "cityscapes/semask_swin_s_fpn": ([0, 1, 2, 3], FPN_CITY),
    "cityscapes/semask_swin_b_fpn": ([0, 1, 2, 3], FPN_CITY | {"SOLVER.WARMUP_FACTOR": 1e-6}),
    "cityscapes/semask_swin_l_fpn": ([0, 1, 2, 3], FPN_CITY),
    "coco_stuff10k/semask_swin_t_fpn": ([0, 1], FPN_512 | OHEM),
    "coco_stuff10k/semask_swin_s_fpn": ([0, 1], FPN_512 | OHEM),
    "coco_stuff10k/semask_swin_b_fpn": ([0, 1, 2, 3], FPN_512 | OHEM),
    "coco_stuff10k/semask_swin_l_fpn": ([0, 1], FPN_640 | OHEM),
}
CLASSES = {"ade20k": 150, "cityscapes": 19, "coco_stuff10k": 171}
SWINS = {  # EMBED_DIM, DEPTHS, NUM_HEADS, WINDOW_SIZE
    "t": (96, [2, 2, 6, 2], [3, 6, 12, 24], 7),
    "s": (96, [2, 2, 18, 2], [3, 6, 12, 24], 7),
    "b": (128, [2, 2, 18, 2], [4, 8, 16, 32], 12),
    "l": (192, [2, 2, 18, 2], [6, 12, 24, 48], 12),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipe(name: str) -> None:
    """With a wrong rule for windowed stages, released weights would load without an error but give other outputs."""
    cfg = get_cfg(CONFIGS / f"{name}.yaml", ["MODEL.DEVICE", "cpu"])
    stages, recipe = PUBLISHED[name]
    swin = cfg.MODEL.SWIN
    size = SWINS[name.split("_swin_")[1][0]]
    assert size == (swin.EMBED_DIM, swin.DEPTHS, swin.NUM_HEADS, swin.WINDOW_SIZE)
    defaults = {
        "MODEL.SWIN.SEM_WINDOWED_STAGES": stages,
        "MODEL.SWIN.SEM_WINDOW_SIZE": swin.WINDOW_SIZE,
        "MODEL.SWIN.DROP_PATH_RATE": 0.3,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": CLASSES[name.split("/")[0]],
        "MODEL.SEM_SEG_HEAD.OHEM_PIXELS": 0,
        "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR",
    }
    expected = defaults | recipe
    values = {key: value_at(cfg, key) for key in expected}
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()} == expected


@pytest.mark.parametrize("name", [name_of(path) for path in RUNS if path.stem.startswith("swin_")])
def test_a_plain_model_is_its_semask_twin_without_semantic_layers(name: str) -> None:
    cfg = get_cfg(CONFIGS / f"{name}.yaml")
    assert cfg.MODEL.SWIN.NUM_SEM_BLOCKS == 0
    size = name.split("/swin_")[1][0]
    assert SWINS[size][:2] == (cfg.MODEL.SWIN.EMBED_DIM, cfg.MODEL.SWIN.DEPTHS)
    other = get_cfg(CONFIGS / f"{name.replace('/', '/semask_')}.yaml")
    for key in ("NUM_SEM_BLOCKS", "SEM_WINDOWED_STAGES", "SEM_WINDOW_SIZE"):
        other.MODEL.SWIN[key] = cfg.MODEL.SWIN[key]
    if name == "ade20k/swin_l_mf":  # its authors chose other scales than SeMask's
        assert list(cfg.INPUT.MIN_SIZE_TRAIN) == list(range(320, 1281, 64))
        other.INPUT.MIN_SIZE_TRAIN = cfg.INPUT.MIN_SIZE_TRAIN
    other.OUTPUT_DIR = cfg.OUTPUT_DIR
    assert other == cfg


# The plain models on ResNet-50, as published by their authors
M2F_COCO = M2F_HEAD | solver(368750, 16, 1e-4, 0.05, 0.1, 0.9, 10, 1, True, True)
M2F_COCO |= {"SOLVER.STEPS": [327778, 355092], "INPUT.IMAGE_SIZE": 1024, "INPUT.MIN_SIZE_TEST": 800}
M2F_512 = M2F | crop(tenths(512), [512, 512]) | sizes(512, 2048, 512)
MF_512 = (
    M2F_512 | head("BasePixelDecoder", 1, 20, 1, 0.1, 6) | solver(160000, 16, 1e-4, 1e-4, 0.1, 0.9, 0, 1, False, True)
)
PLAIN = {
    "ade20k/r50_m2f": ("47.2 mIoU", M2F_512),
    "ade20k/r50_mf": ("44.5 mIoU", MF_512),
    "cityscapes/r50_m2f": ("79.4 mIoU", {key: M2F_CITY[key] for key in M2F_CITY if "SWIN" not in key}),
    "coco_panoptic/r50_m2f": ("51.9 PQ", M2F_COCO),
    "coco_instance/r50_m2f": ("43.7 AP", M2F_COCO),
}


@pytest.mark.parametrize("name", PLAIN)
def test_published_recipe_of_a_plain_model(name: str) -> None:
    cfg = get_cfg(CONFIGS / f"{name}.yaml", ["MODEL.DEVICE", "cpu"])
    resnets = cfg.MODEL.RESNETS
    assert (resnets.DEPTH, resnets.STRIDE_IN_1X1, cfg.MODEL.BACKBONE.FREEZE_AT) == (50, False, 0)
    norm = get_cfg(CONFIGS / f"{name}.yaml", fit=False).MODEL.RESNETS.NORM  # replaced by BN on a CPU
    assert norm == ("SyncBN" if name.startswith("cityscapes") else "FrozenBN")
    figure, expected = PLAIN[name]
    values = {key: value_at(cfg, key) for key in expected}
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()} == expected
    decoder = "MaskFormer" if name.endswith("_mf") else "Mask2Former"
    (first, *_) = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert first.removesuffix(" (single scale)") == f"# Published by {decoder}: {figure}"
    zoo = (CONFIGS.parent / "MODEL_ZOO.md").read_text(encoding="utf-8")
    assert f"| R50 | {decoder} | [{name}.yaml](configs/{name}.yaml) | {figure} |" in zoo


# their zoo's single-scale mIoU, by backbone; for MaskFormer multi-scale, as in its paper
PLAIN_SWIN = {
    f"{data}/swin_{size}_m2f": ("Mask2Former", f"{figure} {metric}")
    for data, metric, figures in (
        ("ade20k", "mIoU (single scale)", "47.7 51.3 53.9 56.1"),
        ("cityscapes", "mIoU (single scale)", "82.1 82.6 83.3 83.3"),
        ("coco_panoptic", "PQ", "53.2 54.6 56.4 57.8"),
        ("coco_instance", "AP", "45.0 46.3 48.1 50.1"),
    )
    for size, figure in zip("tsbl", figures.split(), strict=True)
} | {"ade20k/swin_l_mf": ("MaskFormer", "55.6 mIoU (several scales)")}


def test_every_plain_model_has_its_published_figure() -> None:
    plain = {name_of(path) for path in RUNS if path.stem.startswith(("swin_", "r50_"))}
    assert plain == PLAIN_SWIN.keys() | PLAIN.keys()
    zoo = (CONFIGS.parent / "MODEL_ZOO.md").read_text(encoding="utf-8")
    for name, (decoder, figure) in PLAIN_SWIN.items():
        first = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        assert first == f"# Published by {decoder}: {figure}"
        backbone = f"Swin-{name.split('swin_')[1][0].upper()}"
        shown = figure.removesuffix(" (single scale)")
        assert f"| {backbone} | {decoder} | [{name}.yaml](configs/{name}.yaml) | {shown} |" in zoo


def test_first_lines_tell_the_published_models_and_the_model_zoo_repeats_their_figures() -> None:
    first = {name_of(path): path.read_text(encoding="utf-8").splitlines()[0] for path in RUNS}
    assert {name for name, line in first.items() if line.startswith("# Published: ")} == PUBLISHED.keys()
    zoo = (CONFIGS.parent / "MODEL_ZOO.md").read_text(encoding="utf-8")
    for name in PUBLISHED:
        figures = re.search(r"[\d.]+ / [\d.]+", first[name]).group()
        assert f"(configs/{name}.yaml) | {figures} |" in zoo
    plain = PLAIN.keys() | PLAIN_SWIN.keys()
    others = {first[name] for name in first.keys() - PUBLISHED.keys() - plain if name.split("/")[0] in CLASSES}
    assert others == {"# Not among the published models"}


# configs/README.md


def test_the_readmes_example_loads(tmp_path: Path) -> None:
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1)
    path = shutil.copytree(CONFIGS, tmp_path / "configs") / "ade20k/example.yaml"
    path.write_text(example, encoding="utf-8")
    cfg = get_cfg(path)
    assert (cfg.MODEL.SWIN.DEPTHS, cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME) == ([2, 2, 18, 2], "PixelFANDecoder")
    for command in re.findall(r"semask config (\S+)", text):
        assert (CONFIGS / command).is_file()
    for part in re.findall(r"`((?:data|backbones|recipes)/[\w*.]*)`", text):
        assert list(CONFIGS.glob(f"{part}*")), part
