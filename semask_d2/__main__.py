"""`semask COMMAND ...`, also as `python -m semask_d2`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from semask_d2.commands import check, compare, export, init_data, predict, report, show_config, train, web

COMMANDS = {
    "train": "train a model that a config describes",
    "eval": "evaluate a trained model",
    "compare": "evaluate several trained models, in one table",
    "predict": "draw what a model sees in pictures, videos or a camera",
    "export": "write a trained model for other runtimes, proved against the model",
    "report": "write one HTML page about a run and its evaluations",
    "web": "serve a page where a picture is dropped and segmented",
    "init-data": "look at a folder of images and labels, and describe it in a file",
    "check": "tell all that is wrong with a data set of your own",
    "config": "print every setting of a config with the file that it comes from",
}


def entry(name: str) -> Callable[[Sequence[str]], int]:
    """The function that takes the words after a command's name and returns an exit code."""
    prog = f"semask {name}"
    functions: dict[str, Callable[[Sequence[str]], int]] = {
        "train": lambda words: train.command_line(words, prog=prog),
        "eval": lambda words: train.command_line(words, prog=prog, eval_only=True),
        "compare": lambda words: compare.command_line(words, prog=prog),
        "predict": lambda words: predict.command_line(words, prog=prog),
        "export": lambda words: export.command_line(words, prog=prog),
        "report": lambda words: report.command_line(words, prog=prog),
        "web": lambda words: web.command_line(words, prog=prog),
        "init-data": lambda words: init_data.command_line(words, prog=prog),
        "check": lambda words: check.command_line(words, prog=prog),
        "config": lambda words: show_config.command_line(words, prog=prog),
    }
    return functions[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    commands = "\n".join(f"  {name:11s}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="semask",
        usage="semask COMMAND ... (semask COMMAND --help says more)",
        description=f"SeMask: semantic segmentation.\n\ncommands:\n{commands}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = parser.parse_args(words[:1]).command
    return entry(name)(words[1:])


if __name__ == "__main__":
    sys.exit(main())
