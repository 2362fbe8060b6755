#!/usr/bin/env python3
"""Convert a published YAML config, or the `config.json` in a model folder of transformers, to a config of this project.

    python tools/convert_config.py published.yaml --output literal.yaml
    python tools/convert_config.py mask2former-swin-large --output swin_l.yaml

For a folder with Mask2Former or MaskFormer on Swin or ResNet, the config sets the model, the pixel mean, the number of
classes and MODEL.WEIGHTS; the dataset is left to the user. In a published file, expressions in executable YAML tags are
replaced by the lists they compute. Keys that a file of Mask2Former, MaskFormer or SeMask leaves to the defaults of its
code (the schedule, the decoder, the windowed stages) are filled in, and components get their names in this project;
both changes are printed.

Only lists of the form `!!python/object/apply:eval ["[int(x * 0.1 * 640) for x in range(5, 21)]"]` are understood; they
are computed without executing anything. Any other tag is refused. If nothing is filled in, the rest of the text is
unchanged; a config with a `_BASE_` is written as a single file without it.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

import yaml

from semask_d2.config.published import SEMASK_BACKBONE, STAGES_KEY, completed, value_at
from semask_d2.config.transformers_folders import config_of_folder
from semask_d2.config.yaml_files import BASE_KEY, read_yaml, short_tag, tagged_values
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write

EVAL_TAG = "tag:yaml.org,2002:python/object/apply:eval"
LONGEST_EXPRESSION = 200  # characters
LONGEST_LIST = 1000
BACKBONE_KEY, SEM_BLOCKS_KEY = "MODEL.BACKBONE.NAME", "MODEL.SWIN.NUM_SEM_BLOCKS"


def literal_list(expression: str) -> list[int]:
    """Return the value of `[int(PRODUCT) for x in range(...)]`, where PRODUCT joins numbers and x by *.

    Raises `ValueError` for any other expression.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise ValueError(f"longer than {LONGEST_EXPRESSION} characters")
    match ast.parse(expression.strip(), mode="eval").body:
        case ast.ListComp(
            elt=ast.Call(func=ast.Name(id="int"), args=[product], keywords=[]),
            generators=[
                ast.comprehension(
                    target=ast.Name(id=name),
                    iter=ast.Call(func=ast.Name(id="range"), args=limits, keywords=[]),
                    ifs=[],
                    is_async=0,
                )
            ],
        ) if name not in ("int", "range") and all(is_number(limit, int) for limit in limits):
            steps = range(*(limit.value for limit in limits))
            if len(steps) > LONGEST_LIST:
                raise ValueError(f"a list of more than {LONGEST_LIST} numbers")
            return [int(multiply(product, name, x)) for x in steps]
    raise ValueError("not a list of the form [int(x * 0.1 * 640) for x in range(5, 21)]")


def multiply(node: ast.expr, name: str, x: int) -> float:
    """Return the product `node` of numbers and the variable `name`, whose value is `x`."""
    match node:
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return multiply(left, name, x) * multiply(right, name, x)
        case ast.Name(id=variable) if variable == name:
            return x
        case ast.Constant(value=value) if is_number(node, int, float):
            return value
    raise ValueError("only products of numbers and the variable are understood")


def is_number(node: ast.expr, *types: type) -> bool:
    """Return whether `node` is a number literal of one of the types; True and False are not numbers."""
    return isinstance(node, ast.Constant) and type(node.value) in types


def convert(text: str, source: Path) -> str:
    """Return `text` with every known expression written out; raises `UserError` for any other tagged value."""
    parts, done = [], 0
    for key, node in tagged_values(text):
        where = f"{source}: key {key}, line {node.start_mark.line + 1}"
        match node:
            case yaml.SequenceNode(tag=tag, value=[yaml.ScalarNode(value=expression)]) if tag == EVAL_TAG:
                pass
            case _:
                raise UserError(f"{where}: {short_tag(node)} is not understood; write the value out literally")
        try:
            numbers = literal_list(expression)
        except (ValueError, TypeError, SyntaxError, OverflowError) as error:
            raise UserError(f"{where}: {expression!r} is not understood: {error}; write it out literally") from None
        start, stop = node.start_mark.index, node.end_mark.index
        stop = start + len(text[start:stop].rstrip())  # a multi-line list extends to the next key
        parts += [text[done:start], str(numbers)]
        done = stop
    return "".join([*parts, text[done:]])


def literal_config(path: Path) -> tuple[str, list[str]]:
    """Return the literal form of the config file at `path`, and lines about the values that were filled in."""
    values = read_yaml(path, chain=(), clean=convert)  # reports problems of the file and of its bases
    text = convert(path.read_text(encoding="utf-8"), path)
    values, added = completed(values)
    notes = [f"  {key}: {value}" for key, value in added.items()]
    has_layers = value_at(values, BACKBONE_KEY) == SEMASK_BACKBONE and value_at(values, SEM_BLOCKS_KEY) != 0
    if has_layers and value_at(values, STAGES_KEY) is None:
        notes.append(f"  {STAGES_KEY} is not known for this number of classes: set the value of your training run")
    whole = bool(added) or BASE_KEY in (yaml.safe_load(text) or {})
    return yaml.safe_dump(values, sort_keys=False) if whole else text, notes


def transformers_text(folder: Path) -> str:
    """Return the text of the config for the model in a folder of transformers."""
    bases, values = config_of_folder(folder)
    return yaml.safe_dump({BASE_KEY: bases, **values}, sort_keys=False, default_flow_style=None)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", type=Path, help="published config file, or folder with a config.json")
    parser.add_argument("--output", type=Path, required=True, help="file to write; it must not exist")
    options = parser.parse_args(arguments)
    if options.output.exists():
        raise UserError(f"--output {options.output}: exists already; name another file, or remove it")
    notes: list[str] = []
    if options.config.is_dir():
        text = transformers_text(options.config)
    else:
        text, notes = literal_config(options.config)
    try:
        with atomic_write(options.output) as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"--output {options.output}: cannot be written: {error.strerror}") from error
    print(f"{options.config} -> {options.output}")
    if notes:
        print("Filled in, as in the code that the file was written for:", *notes, sep="\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
