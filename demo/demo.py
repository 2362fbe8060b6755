#!/usr/bin/env python3
"""Draw what a model sees in pictures, videos or a camera: `demo.py --input FILE... --output DIR`."""

import sys
from functools import partial

from semask_d2.__main__ import script

command_line = partial(script, "predict")

if __name__ == "__main__":
    sys.exit(command_line())
