"""The options that commands share: `--weights`, `--config-file`, `--data`, `--device`, and KEY VALUE at the end."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*(=.*)?")


class OldName(argparse.Action):
    """An option's earlier name, which goes on working for one release and says so in a line."""

    def __init__(self, option_strings: Sequence[str], dest: str, new_name: str, default: object = None):
        super().__init__(option_strings, dest, default=default, help=argparse.SUPPRESS)
        self.new_name = new_name

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        print(f"warning: {option_string} is now called {self.new_name}; it goes away next release", file=sys.stderr)
        setattr(namespace, self.dest, values)
        setattr(namespace, f"{self.dest}_option", option_string)


def add_weights(parser: argparse.ArgumentParser, text: str, *, old_name: str | None = None) -> None:
    """Add `--weights SOURCE`, the model that a command is about; `weights_option` is what the user has called it."""
    parser.add_argument("--weights", metavar="SOURCE", help=text)
    if old_name is not None:
        parser.add_argument(old_name, dest="weights", action=OldName, new_name="--weights", default=argparse.SUPPRESS)
    parser.set_defaults(weights_option="--weights")


def add_config_file(
    parser: argparse.ArgumentParser, text: str = "config (default: the one that the weights come with)"
) -> None:
    """Add `--config-file FILE`, what a model is made of."""
    parser.add_argument("--config-file", metavar="FILE", help=text)


def add_data(parser: argparse.ArgumentParser, text: str = "your own data set, as a YAML file describes it") -> None:
    """Add `--data FILE`."""
    parser.add_argument("--data", metavar="FILE", help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`, for MODEL.DEVICE."""
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: a GPU if there is one)")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the settings that end a command line; `parse` splits them off."""
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config settings, last")


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of a command line; its `opts` are the settings, what options set before KEY VALUE pairs."""
    words, settings = split_settings(parser, words)
    args = parser.parse_args(words)
    options = {"device": "MODEL.DEVICE", "output_dir": "OUTPUT_DIR"}
    named = [word for name, key in options.items() if getattr(args, name, None) for word in (key, getattr(args, name))]
    args.opts = [*named, *getattr(args, "opts", []), *settings]
    return args


def split_settings(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line before its KEY VALUE pairs, which no option that takes many words shall swallow.

    They begin with the first word that reads as a config key, is no option's value and no file; or after Detectron2's
    `--opts`, which is left out.
    """
    if all(action.dest != "opts" for action in parser._actions):
        return list(words), []
    number = 0
    while number < len(words):
        word = words[number]
        if word == "--opts":
            return list(words[:number]), list(words[number + 1 :])
        action = parser._option_string_actions.get(word)
        if action is not None:
            least = {None: 1, "+": 1}  # words that are the option's own, whatever they read like
            number += action.nargs if isinstance(action.nargs, int) else least.get(action.nargs, 0)
        elif KEY.fullmatch(word) and not os.path.lexists(word):
            return list(words[:number]), list(words[number:])
        number += 1
    return list(words), []
