#!/usr/bin/env python3
"""Train or evaluate: `train_net.py --config-file FILE [--num-gpus N] [--resume] [--eval-only] [KEY VALUE ...]`."""

import sys

from semask_d2.commands.train import command_line

if __name__ == "__main__":
    sys.exit(command_line())
