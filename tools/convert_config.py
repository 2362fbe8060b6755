#!/usr/bin/env python3
"""Write a config of others as one of ours: a published YAML file, or the `config.json` of a folder of transformers.

    python tools/convert_config.py published.yaml --output literal.yaml
    python tools/convert_config.py mask2former-swin-large --output swin_l.yaml

Of a folder, whose MODEL.WEIGHTS it sets, the config of Mask2Former or MaskFormer on Swin or ResNet is written: model,
pixel mean and number of classes; the dataset is the user's. A published file is written without executable YAML tags:
the lists that its expressions stand for, literally. What a file of Mask2Former, MaskFormer or SeMask leaves to the
defaults of its own code is filled in with these (the schedule, the decoder, which stages attend within windows), and
its parts get the names that they have here; both are printed.

It understands lists of the form `!!python/object/apply:eval ["[int(x * 0.1 * 640) for x in range(5, 21)]"]`, computes
them itself and executes nothing. Anything else with a tag is refused. The rest of the text stays as it is where nothing
is filled in; a config with a `_BASE_` is written as one file without it.
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
    """The value of `[int(PRODUCT) for x in range(...)]`, PRODUCT being numbers and x joined by *; else `ValueError`."""
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
    """The product `node` of numbers and the variable `name`, which is `x`."""
    match node:
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return multiply(left, name, x) * multiply(right, name, x)
        case ast.Name(id=variable) if variable == name:
            return x
        case ast.Constant(value=value) if is_number(node, int, float):
            return value
    raise ValueError("only products of numbers and the variable are understood")


def is_number(node: ast.expr, *types: type) -> bool:
    """Whether `node` is a literal of one of the types; True and False are none."""
    return isinstance(node, ast.Constant) and type(node.value) in types


def convert(text: str, source: Path) -> str:
    """`text` with every known expression written out; `UserError` for any other value with a tag."""
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
        stop = start + len(text[start:stop].rstrip())  # a list in lines ends where the next key starts
        parts += [text[done:start], str(numbers)]
        done = stop
    return "".join([*parts, text[done:]])


def literal_config(path: Path) -> tuple[str, list[str]]:
    """The text of the literal config that the file at `path` stands for, and lines about what was filled in."""
    values = read_yaml(path, chain=(), clean=convert)  # says what is wrong with the file, and with those it starts from
    text = convert(path.read_text(encoding="utf-8"), path)
    values, added = completed(values)
    notes = [f"  {key}: {value}" for key, value in added.items()]
    has_layers = value_at(values, BACKBONE_KEY) == SEMASK_BACKBONE and value_at(values, SEM_BLOCKS_KEY) != 0
    if has_layers and value_at(values, STAGES_KEY) is None:
        notes.append(f"  {STAGES_KEY} is not known for this number of classes: state the one of your training")
    whole = bool(added) or BASE_KEY in (yaml.safe_load(text) or {})
    return yaml.safe_dump(values, sort_keys=False) if whole else text, notes


def transformers_text(folder: Path) -> str:
    """The text of the config of the model in a folder of transformers."""
    bases, values = config_of_folder(folder)
    return yaml.safe_dump({BASE_KEY: bases, **values}, sort_keys=False, default_flow_style=None)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="published config file, or folder with a config.json")
    parser.add_argument("--output", type=Path, required=True, help="file to write; it must not be there yet")
    options = parser.parse_args(arguments)
    if options.output.exists():
        raise UserError(f"--output {options.output}: is there already; name another file, or remove it")
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
        print("Filled in, as the file's own code has it:", *notes, sep="\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
