"""`CfgNode`, `get_cfg` and `configurable`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from semask_d2.d2 import CfgNode, configurable, get_cfg, native

DETECTRON2_CONFIG = Path(__file__).parent / "detectron2_config.yaml"


def test_each_config_is_a_copy_of_its_own():
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER = 1
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES.append("p6")
    assert get_cfg().SOLVER.MAX_ITER == 40000
    assert get_cfg().MODEL.SEM_SEG_HEAD.IN_FEATURES == ["p2", "p3", "p4", "p5"]


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def test_defaults_are_those_that_detectron2_writes():
    written = dict(leaves(yaml.safe_load(DETECTRON2_CONFIG.read_text())))
    defaults = dict(leaves(native.get_cfg()))
    assert defaults.items() <= written.items()
    loaded = dict(leaves(get_cfg()))
    assert {key: loaded[key] for key in defaults} == defaults


def test_a_config_written_by_detectron2_loads():
    cfg = get_cfg()
    cfg.merge_from_file(str(DETECTRON2_CONFIG))
    assert cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE == 256
    assert cfg.MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT == 4096


def test_a_full_dump_of_this_side_loads_on_the_native_side_and_back(tmp_path):
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", 7, "DATASETS.TRAIN", ("toy",)])
    native_file, returned_file = tmp_path / "there.yaml", tmp_path / "back.yaml"
    native_file.write_text(cfg.dump())
    on_the_native_side = native.get_cfg()
    on_the_native_side.merge_from_file(str(native_file))
    assert on_the_native_side.SOLVER.MAX_ITER == 7
    returned_file.write_text(on_the_native_side.dump())
    returned = get_cfg()
    returned.merge_from_file(str(returned_file))
    assert returned.DATASETS.TRAIN == ("toy",)
    assert yaml.safe_load(returned.dump()) == yaml.safe_load(cfg.dump())


def test_a_config_of_the_native_side_loads(tmp_path):
    file = tmp_path / "native.yaml"
    file.write_text(native.get_cfg().dump())
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    assert yaml.safe_load(cfg.dump()) == yaml.safe_load(get_cfg().dump())


def test_merge_from_list_takes_strings_as_from_a_command_line():
    cfg = get_cfg()
    cfg.merge_from_list(
        ["SOLVER.BASE_LR", "0.5", "DATASETS.TRAIN", "('a', 'b')", "SEED", "3", "INPUT.CROP.ENABLED", "True"]
    )
    assert (cfg.SOLVER.BASE_LR, cfg.DATASETS.TRAIN, cfg.SEED, cfg.INPUT.CROP.ENABLED) == (0.5, ("a", "b"), 3, True)


def test_a_value_of_another_type_is_an_error():
    with pytest.raises(ValueError, match="Type mismatch"):
        get_cfg().merge_from_list(["SOLVER.MAX_ITER", "many"])


def test_an_unknown_key_is_an_error(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("SOLVER: {MAX_ITERS: 3}\n")
    with pytest.raises(KeyError, match=r"SOLVER\.MAX_ITERS"):
        get_cfg().merge_from_file(str(file))
    with pytest.raises(AssertionError, match="MAX_ITERS"):
        get_cfg().merge_from_list(["SOLVER.MAX_ITERS", "3"])


def test_a_file_overrides_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 5, IMS_PER_BATCH: 2}\n")
    file = tmp_path / "a.yaml"
    file.write_text("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 6}\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH) == (6, 2)


def test_a_tag_in_a_file_does_not_run(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("SEED: !!python/object/apply:eval ['1 + 1']\n")
    with pytest.raises(yaml.constructor.ConstructorError, match="python/object/apply"):
        get_cfg().merge_from_file(str(file), allow_unsafe=False)


def test_new_sections_take_part_in_merges_dumps_and_clones():
    cfg = get_cfg()
    cfg.MODEL.SWIN = CfgNode({"DEPTHS": [2, 2], "INNER": {"A": 1}})
    cfg.merge_from_list(["MODEL.SWIN.DEPTHS", "[1, 1]", "MODEL.SWIN.INNER.A", "4"])
    assert yaml.safe_load(cfg.clone().dump())["MODEL"]["SWIN"] == {"DEPTHS": [1, 1], "INNER": {"A": 4}}


def test_a_frozen_config_and_its_clones_cannot_change_until_they_thaw():
    cfg = get_cfg()
    cfg.freeze()
    copy = cfg.clone()
    assert copy.is_frozen()
    with pytest.raises(AttributeError, match="immutable"):
        copy.SOLVER.MAX_ITER = 1
    copy.defrost()
    copy.SOLVER.MAX_ITER = 1
    assert (copy.SOLVER.MAX_ITER, cfg.SOLVER.MAX_ITER) == (1, 40000)


class Part:
    @configurable
    def __init__(self, *, size, shape=None, depth=1):
        self.values = (size, shape, depth)

    @classmethod
    def from_config(cls, cfg, shape=None):
        return {"size": cfg.SOLVER.MAX_ITER, "shape": shape, "depth": 2}


class SmallPart(Part):
    @classmethod
    def from_config(cls, cfg, shape=None):
        return {**super().from_config(cfg, shape), "size": 0}


def test_configurable_builds_from_a_config():
    cfg = get_cfg()
    assert Part(cfg).values == (40000, None, 2)
    assert Part(cfg=cfg).values == (40000, None, 2)
    assert Part(cfg, "wide").values == (40000, "wide", 2)
    assert Part(cfg, shape="wide", depth=5).values == (40000, "wide", 5)
    assert SmallPart(cfg, "wide").values == (0, "wide", 2)


def test_configurable_without_a_config_takes_the_arguments_as_they_are():
    assert Part(size=3, depth=4).values == (3, None, 4)


def test_configurable_lets_from_config_take_all_keyword_arguments():
    class Greedy(Part):
        @classmethod
        def from_config(cls, cfg, **kwargs):
            return {"size": cfg.SEED, "depth": kwargs["depth"] * 2}

    assert Greedy(get_cfg(), depth=4).values == (-1, None, 8)


def test_configurable_needs_a_from_config_that_takes_cfg():
    class Without:
        @configurable
        def __init__(self):
            pass

    class Misnamed(Part):
        @classmethod
        def from_config(cls, config):
            return {}

    with pytest.raises(AttributeError, match="from_config"):
        Without(get_cfg())
    with pytest.raises(TypeError, match=r"'cfg' as .*first argument"):
        Misnamed(get_cfg())
