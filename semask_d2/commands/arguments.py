"""Options shared by the commands: `--weights`, `--config-file`, `--data`, `--device`, and trailing KEY VALUE pairs."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from semask_d2.commands.foreign_options import Parser, misplaced
from semask_d2.utils.errors import UserError

KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*(=.*)?")


class OldName(argparse.Action):
    """Deprecated name of an option: it still works for one release and prints a warning."""

    def __init__(self, option_strings: Sequence[str], dest: str, new_name: str, default: object = None):
        super().__init__(option_strings, dest, default=default, help=argparse.SUPPRESS)
        self.new_name = new_name

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        print(
            f"warning: {option_string} is deprecated and will be removed in the next release; use {self.new_name}",
            file=sys.stderr,
        )
        setattr(namespace, self.dest, values)
        setattr(namespace, f"{self.dest}_option", option_string)


def add_weights(parser: argparse.ArgumentParser, text: str, *, old_name: str | None = None) -> None:
    """Add `--weights SOURCE`, the model to use; `args.weights_option` is the option's name as the user typed it."""
    parser.add_argument("--weights", metavar="SOURCE", help=text)
    if old_name is not None:
        parser.add_argument(old_name, dest="weights", action=OldName, new_name="--weights", default=argparse.SUPPRESS)
    parser.set_defaults(weights_option="--weights")


def add_config_file(
    parser: argparse.ArgumentParser, text: str = "config (default: the config saved with the weights)"
) -> None:
    """Add `--config-file FILE`, the config of the model."""
    parser.add_argument("--config-file", metavar="FILE", help=text)


def add_data(parser: argparse.ArgumentParser, text: str = "your own dataset, described in a YAML file") -> None:
    """Add `--data FILE`."""
    parser.add_argument("--data", metavar="FILE", help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`, which sets MODEL.DEVICE."""
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: a GPU if available)")


def add_job(parser: argparse.ArgumentParser) -> None:
    """Add Detectron2's options for the processes of a job."""
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="processes per machine, each with a GPU if available"
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="number of this machine, from 0")
    text = "address of machine 0, or auto (default: a port of this machine that depends on the user)"
    parser.add_argument("--dist-url", metavar="URL", help=text)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the KEY VALUE pairs that end a command line; `parse` splits them off."""
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config settings, after all options")


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of a command line; `opts` holds its settings.

    Settings from options such as `--device` come before the KEY VALUE pairs, which therefore win.
    """
    words, settings = split_settings(parser, words)
    if isinstance(parser, Parser):
        parser.words = words
    args = parser.parse_args(words)
    keys = {"device": "MODEL.DEVICE", "output_dir": "OUTPUT_DIR"}
    from_options = [
        word for name, key in keys.items() if getattr(args, name, None) for word in (key, getattr(args, name))
    ]
    args.settings = [*getattr(args, "opts", []), *settings]
    args.opts = [*from_options, *args.settings]
    return args


def require_settings(settings: Sequence[str]) -> None:
    """Raise `UserError` unless the words of a user that follow the options are KEY VALUE pairs."""
    keys = list(settings[::2])
    if any("=" in word for word in keys) or any(word.startswith("--") for word in settings):
        return  # `merge_opts` names them
    if any(not KEY.fullmatch(word) for word in keys[:1]):
        raise UserError(misplaced([word for word in settings if not KEY.fullmatch(word)]))
    if len(settings) % 2:
        raise UserError(f"settings: expected KEY VALUE pairs, got an odd number of words: {' '.join(settings)}")


def split_settings(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line before its KEY VALUE pairs, so that no option with several values consumes them.

    The pairs begin with the first word that looks like a config key and is neither an option's value nor a file, or
    after Detectron2's `--opts`, which is dropped.
    """
    if all(action.dest != "opts" for action in parser._actions):
        return list(words), []
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--opts":
            return list(words[:index]), list(words[index + 1 :])
        action = parser._option_string_actions.get(word)
        if action is not None:
            value_count = {None: 1, "+": 1}  # words that are always the option's value, even if they look like a key
            index += action.nargs if isinstance(action.nargs, int) else value_count.get(action.nargs, 0)
        elif KEY.fullmatch(word) and not os.path.lexists(word):
            return list(words[:index]), list(words[index:])
        index += 1
    return list(words), []
