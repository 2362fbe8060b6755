"""Choice of the model: from `--weights SOURCE` and `--config-file FILE` to a config with its weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from semask_d2.checkpoint.hub import local_source, repository_of
from semask_d2.checkpoint.transformers_folder import classes_of_folder
from semask_d2.config import get_cfg
from semask_d2.config.transformers_folders import is_transformers_folder
from semask_d2.d2 import CfgNode
from semask_d2.data.datasets import with_classes
from semask_d2.utils.errors import UserError, printable
from semask_d2.utils.runs import CONFIG_NAME, RUNS, newest_run, require_run, run_weights

PACKAGED_MODEL = Path(__file__).parent / "assets/clothing"  # what `predict` uses where nothing is trained yet


class Source(NamedTuple):
    """Model named by the user: a value for MODEL.WEIGHTS, the config saved with it, and the folder for its results.

    Results go into the run folder itself. For models of others they go into the working directory, so that nothing is
    written into a cache: output/OWNER/NAME for a repository of the hub, output/NAME for a folder of transformers.
    Config and folder are None if unknown.
    """

    weights: str
    config_file: str | None
    results: str | None = None


def find_source(source: str, option: str | None = "--weights") -> Source:
    """Return the weights and config of a checkpoint, a run folder (its best weights) or a transformers folder.

    The name "owner/name" of a repository on the Hugging Face hub stands for a local copy of its files. Another
    address, such as timm://NAME, goes to MODEL.WEIGHTS and has no config. Raises `UserError` if nothing is found at
    `source`; the message names `option`, the option as the user typed it ("" for a positional argument, None for an
    argument in Python).
    """
    try:
        repository = repository_of(source)
        source = local_source(source)
    except UserError as error:
        raise UserError(_named(option, str(error))) from error
    if "://" in source:
        return Source(source, None)
    path = Path(source)
    if not os.path.exists(path):
        raise UserError(f"{_named(option, source)}: no such file or run folder")
    elsewhere = os.path.join(RUNS, repository.name if repository else path.resolve().name)
    if is_transformers_folder(path):
        return Source(source, source, elsewhere)
    folder = path if path.is_dir() else path.parent
    config = folder / CONFIG_NAME
    if path.is_dir():
        try:
            path = require_run(path)
        except UserError as error:
            raise UserError(_named(option, str(error))) from error
    if not config.is_file():
        return Source(str(path), None)
    return Source(str(path), str(config), elsewhere if repository else str(folder))


def choose_config(
    config_file: str | None,
    weights: str | None,
    opts: Sequence[str] = (),
    *,
    data: str | None = None,
    option: str | None = "--weights",
    packaged: bool = False,
) -> CfgNode:
    """Return the config of the chosen model, with MODEL.WEIGHTS; `data` is the YAML file of a dataset.

    `weights` is a source as in `find_source`. A config file without weights uses the weights beside it. Without
    either, the newest trained run under `output` is used, and its name is printed; if there is none and `packaged`, the
    packaged model. A transformers model whose classes are those of a built-in dataset also gets that dataset's colors
    and things. Raises `UserError` if no trained model is found; the message calls `weights` by `option`.
    """
    if "MODEL.WEIGHTS" in opts[::2]:
        if weights is not None:
            in_settings = dict(zip(opts[::2], opts[1::2], strict=False))["MODEL.WEIGHTS"]
            raise UserError(f"{_named(option, weights)} and MODEL.WEIGHTS {in_settings}: give only one of them")
        if config_file:
            return get_cfg(config_file, list(opts), data=data, trained=is_trained(config_file))
    if weights is not None:
        chosen = find_source(weights, option)
        config_file = config_file or chosen.config_file
        if config_file is None:
            expected_path = Path(weights).parent / CONFIG_NAME
            missing = "comes with it" if "://" in weights else f"at {expected_path}"
            advice = "add --config-file FILE"
            if option is None:
                advice = f'name its config too: Predictor("ade20k/semask_swin_t_m2f.yaml", {weights!r}), for example'
            raise UserError(f"{_named(option, weights)}: no config {missing}; {advice}")
        path = chosen.weights
    elif config_file:
        path = None if is_transformers_folder(config_file) else run_weights(Path(config_file).parent)
    else:
        run = choose_run(option, packaged=packaged)
        path, config_file = require_run(run), str(run / CONFIG_NAME)
    weights_setting = [] if path is None else ["MODEL.WEIGHTS", str(path)]
    cfg = get_cfg(config_file, [*opts, *weights_setting], data=data, trained=is_trained(config_file))
    weights = cfg.MODEL.WEIGHTS
    if (
        weights and is_transformers_folder(weights) and not cfg.DATASETS.TEST
    ):  # the folder has neither things nor colors
        dataset = with_classes(classes_of_folder(weights).names)
        cfg.DATASETS.TEST = (dataset,) if dataset else ()
    return cfg


def is_trained(config_file: str) -> bool:
    """Return whether a config file describes a trained model, as those in run folders do, not one to be trained."""
    return Path(config_file).name == CONFIG_NAME or is_transformers_folder(config_file)


def require_no_image(source: str) -> None:
    """Raise `UserError` if the name of a model is that of an image or a video."""
    from semask_d2.inference.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES  # imported late: it imports OpenCV

    if source.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)):
        raise UserError(f"{source}: a model is expected here, and its predictor takes images: Predictor()({source!r})")


def predictor_config(source: CfgNode | str | None, weights: str | os.PathLike | None, device: str | None) -> CfgNode:
    """Return the config of a `Predictor`; `UserError` for a source that is none, such as an image."""
    words = ["MODEL.DEVICE", device] if device else []
    if isinstance(source, CfgNode):
        cfg = source.clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
        if weights is not None:
            cfg.MODEL.WEIGHTS = find_source(os.fspath(weights), None).weights
        return cfg
    if source is not None and not isinstance(source, str):
        raise UserError(f"Predictor: expected a model, a config or the name of a source, got a {type(source).__name__}")
    if source is not None:
        require_no_image(source)
    is_file = source is not None and source.endswith((".yaml", ".yml"))
    if source is not None and (is_file or weights is not None):
        named = source if is_file or os.path.lexists(source) else f"{source}.yaml"
        return choose_config(named, None if weights is None else os.fspath(weights), words, option=None)
    return choose_config(None, source, words, option=None, packaged=True)


def choose_run(option: str | None = "--weights", *, packaged: bool = False) -> Path:
    """Return the newest trained run under `output` and print its name.

    If there is none, return the packaged model if `packaged`, else raise `UserError`.
    """
    run = newest_run(RUNS)
    if run is None and packaged:
        print(
            f"No trained model under {RUNS}/: using the packaged one, which segments people's clothes (17 classes). "
            f"Name {f'another with {option} SOURCE' if option else 'a source'}, or train one with semask train"
        )
        return PACKAGED_MODEL
    if run is None:
        advice = f"give one with {option} PATH" if option else "name a source"
        raise UserError(
            f"no trained model under {os.path.abspath(RUNS)}: {advice}, or train one with semask train --config-file "
            "toy_scenes/semask_swin_mini_msfapn_m2f.yaml"
        )
    print(printable(f"Using the newest trained run: {require_run(run)}"))
    return run


def _named(option: str | None, source: str) -> str:
    return f"{option} {source}" if option else source
