#!/usr/bin/env python3
"""Train or evaluate: `train_net.py --config-file FILE [--num-gpus N] [--resume] [--eval-only] [KEY VALUE ...]`."""

import sys
from functools import partial

from semask_d2.__main__ import script

command_line = partial(script, "train")

if __name__ == "__main__":
    sys.exit(command_line())
