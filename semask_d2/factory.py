"""Model creation by name and loading of trained models: `list_models`, `create_model` and `from_pretrained`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from semask_d2.checkpoint.hub import local_source
from semask_d2.checkpoint.loading import load_weights
from semask_d2.checkpoint.shared_folder import ModelDescription
from semask_d2.config import get_cfg
from semask_d2.config.finding import configs_folder, repository_hint
from semask_d2.d2 import CfgNode
from semask_d2.data.datasets.custom import register_custom
from semask_d2.evaluation.result_files import FOLDER, read_evaluations
from semask_d2.export.running import EXPORTED, open_exported
from semask_d2.export.segmenter import ExportedSegmenter
from semask_d2.inference.sources import choose_config, require_no_image
from semask_d2.inference.trained_model import TrainedModel, model_classes, trained_model
from semask_d2.modeling.meta_arch import SemanticSegmenter, build_model
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError, user_errors_alone
from semask_d2.utils.registry import suggestion

PARTS = ("backbones", "data", "recipes")  # folders of partial configs, which are not complete models
DEFAULT_DATASET = "ade20k"  # the dataset of names without one
CONFIG_START = "config"  # a value of `weights` in `create_model`


def list_models(pattern: str = "*") -> list[str]:
    """Return the names "dataset/model" of the package's models that match a shell pattern.

    A pattern without a slash is matched against the part after the slash, as in `list_models("*swin_l*")`.
    """
    folder = configs_folder()
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    models = sorted(name for name in names if "/" in name and name.partition("/")[0] not in PARTS)
    return [name for name in models if fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern)]


@user_errors_alone()
def create_model(
    name: str,
    num_classes: int | None = None,
    weights: str | os.PathLike | None = None,
    *,
    class_names: Sequence[str] | None = None,
    device: str | None = None,
    **settings: Any,
) -> nn.Module:
    """Return a new model by its name ("ade20k/semask_swin_t_m2f"; see `list_models`), in training mode.

    A name without a dataset means the ADE20K model if there is one. `weights` are the start of training: "config" for
    those that the model's config names (ImageNet); a source of `from_pretrained`, whose class layers are not loaded;
    or None for random weights. `class_names` are recorded by `save_pretrained` and set `num_classes`. `settings` are
    config keys, given as `**{"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 50}`. The model's `load_report` says what was
    loaded. Raises `UserError` for unknown names and keys, and for weights that do not match the model.
    """
    full_name = full_model_name(name)
    if weights is not None and not isinstance(weights, (str, os.PathLike)):
        raise UserError(f'weights: expected "{CONFIG_START}", a source such as "output/run", or None, got {weights!r}')
    classes = None if class_names is None else named_classes(class_names, num_classes)
    words = [*settings_words(settings, device)]
    if classes is not None or num_classes is not None:
        words += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", num_classes if classes is None else len(classes)]
    cfg = get_cfg(f"{full_name}.yaml", words)
    if weights == CONFIG_START and not cfg.MODEL.WEIGHTS:
        raise UserError(
            f'weights="{CONFIG_START}": the config of {full_name} names no weights; name a source, such as '
            "timm://NAME for a timm backbone, or leave weights out for a random start"
        )
    if weights != CONFIG_START:
        cfg.MODEL.WEIGHTS = "" if weights is None else local_source(weights)
    if classes is not None:
        if cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON:
            raise UserError("class_names: a panoptic model takes its classes, things and stuff, from DATASETS.TEST")
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()  # their classes are others
    model = build_model(cfg)
    report = None
    if cfg.MODEL.WEIGHTS:
        report = load_weights(
            model,
            cfg.MODEL.WEIGHTS,
            training_start=True,
            drop_class_layers=weights != CONFIG_START,
            bgr=cfg.INPUT.FORMAT == "BGR",
        )
    return described(cfg, TrainedModel(model, classes, None, report))


@user_errors_alone()
def from_pretrained(
    source: str | os.PathLike, revision: str | None = None, *, device: str | None = None, **settings: Any
) -> nn.Module:
    """Return a trained model in evaluation mode.

    `source` is a run folder, a checkpoint in one, a folder of `save_pretrained`, a folder of transformers' Mask2Former,
    MaskFormer or EoMT, a file of `semask export` (ONNX, OpenVINO), or "owner/name", a repository of the Hugging Face
    hub; `revision` is its branch, tag or commit. `settings` are config keys as for `create_model`. Raises `UserError`
    for a source that is missing, damaged or of another kind.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise UserError(f"from_pretrained: expected the name or path of a source, got a {type(source).__name__}")
    require_no_config_name(os.fspath(source))
    require_no_image(os.fspath(source))
    path = local_source(source, revision)
    if path.endswith(EXPORTED):
        return ExportedSegmenter(open_exported(Path(path)))
    cfg = choose_config(None, path, settings_words(settings, device), option=None)
    return described(cfg, trained_model(cfg), measured(path))


def described(cfg: CfgNode, trained: TrainedModel, metrics: dict[str, dict[str, float]] | None = None) -> nn.Module:
    """Return the model, with its `description` and `load_report` if it is one of this project."""
    model = trained.model
    if isinstance(model, SemanticSegmenter):
        register_custom(cfg)
        classes = model_classes(cfg, trained.classes)
        model.description = ModelDescription(cfg.clone(), classes, metrics or {}, trained.iterations)
        model.load_report = trained.report
    return model


def named_classes(names: Sequence[str], num_classes: int | None) -> Classes:
    """Return the classes with these names; `UserError` unless they are `num_classes` distinct names."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names) or not names:
        raise UserError(f'class_names: expected a list of names, such as ["sky", "road"], got {names!r}')
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise UserError(f"class_names: {twice!r} occurs twice")
    if num_classes not in (None, len(names)):
        raise UserError(f"class_names: {len(names)} names, but num_classes is {num_classes}; leave num_classes out")
    return Classes.of(names)


def require_no_config_name(source: str) -> None:
    """Raise `UserError` if a source is the name of a config, whose model has no trained weights."""
    name = source.removesuffix(".yaml")
    if name in list_models() and not os.path.lexists(source):
        raise UserError(
            f'{source}: this is a config, not a trained model; semask_d2.create_model("{name}") makes its model'
        )


def measured(run: str | os.PathLike) -> dict[str, dict[str, float]]:
    """Return the main metrics in percent, by dataset and name, of the evaluations in a run folder."""
    if not os.path.isdir(os.path.join(run, FOLDER)):
        return {}
    return {
        evaluation.title: {evaluation.task.metric: evaluation.metrics[evaluation.task.metric]}
        for evaluation in read_evaluations(run)
    }


def full_model_name(name: str) -> str:
    """Return a model's name with its dataset; `UserError`, suggesting names, if it is unknown or ambiguous."""
    known = list_models()
    plain = name.removesuffix(".yaml")
    if plain in known:
        return plain
    same = [full for full in known if full.rpartition("/")[2] == plain]
    if f"{DEFAULT_DATASET}/{plain}" in same:
        return f"{DEFAULT_DATASET}/{plain}"
    if len(same) == 1:
        return same[0]
    if same:
        raise UserError(f"{name}: models of several datasets have this name; use one of {', '.join(same)}")
    near = suggestion(plain, known) or suggestion(plain, [full.rpartition("/")[2] for full in known])
    hint = near or repository_hint(name)
    raise UserError(f"{name}: the package has no model of this name.{hint} semask_d2.list_models() lists all")


def settings_words(settings: dict[str, Any], device: str | None) -> list[Any]:
    """Return settings as the alternating keys and values of a command line."""
    words = [word for pair in settings.items() for word in pair]
    return [*words, *(["MODEL.DEVICE", device] if device else [])]
