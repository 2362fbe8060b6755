#!/usr/bin/env python3
"""Write a published SeMask config without executable YAML tags: the lists that its expressions stand for, literally.

    python tools/convert_config.py published.yaml --output literal.yaml

It understands lists of the form `!!python/object/apply:eval ["[int(x * 0.1 * 640) for x in range(5, 21)]"]`, computes
them itself and executes nothing. Anything else with a tag is refused.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a clone that is not installed

from semask_d2.config import refuse_tags
from semask_d2.errors import UserError
from semask_d2.files import atomic_write

EVAL_TAG = re.compile(r"""!!python/object/apply:eval\s*\[\s*(?P<quote>["'])(?P<expression>.*?)(?P=quote)\s*,?\s*\]""")


def literal_list(expression: str) -> list[int]:
    """The value of `[int(PRODUCT) for x in range(...)]`, PRODUCT being numbers and x joined by *; else `ValueError`."""
    tree = ast.parse(expression.strip(), mode="eval").body
    match tree:
        case ast.ListComp(
            elt=ast.Call(func=ast.Name(id="int"), args=[product], keywords=[]),
            generators=[
                ast.comprehension(
                    target=ast.Name(id=name),
                    iter=ast.Call(func=ast.Name(id="range"), args=limits, keywords=[]),
                    ifs=[],
                )
            ],
        ) if all(isinstance(limit, ast.Constant) and isinstance(limit.value, int) for limit in limits):
            steps = range(*(limit.value for limit in limits))
            return [int(multiply(product, name, x)) for x in steps]
    raise ValueError("not a list of the form [int(x * 0.1 * 640) for x in range(5, 21)]")


def multiply(node: ast.expr, name: str, x: int) -> float:
    """The product `node` of numbers and the variable `name`, which is `x`."""
    match node:
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return multiply(left, name, x) * multiply(right, name, x)
        case ast.Name(id=variable) if variable == name:
            return x
        case ast.Constant(value=int() | float() as value):
            return value
    raise ValueError("only products of numbers and the variable are understood")


def convert(text: str, source: Path) -> str:
    """`text` with every known expression written out; `UserError` where a tag stays."""

    def replace(match: re.Match) -> str:
        try:
            return str(literal_list(match["expression"]))
        except (ValueError, TypeError, SyntaxError) as error:
            line = text[: match.start()].count("\n") + 1
            raise UserError(f"{source}: line {line}: {match['expression']!r} is not understood: {error}") from None

    converted = EVAL_TAG.sub(replace, text)
    refuse_tags(converted, source)
    return converted


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="published config file")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    try:
        text = options.config.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{options.config}: cannot be read: {error.strerror}") from error
    with atomic_write(options.output) as file:
        file.write(convert(text, options.config))
    print(f"{options.config} -> {options.output}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
