#!/usr/bin/env python3
"""Segment images, videos or a camera stream and draw the results: `demo.py --input FILE... --output DIR`."""

import sys
from functools import partial

from semask_d2.__main__ import script

command_line = partial(script, "predict")

if __name__ == "__main__":
    sys.exit(command_line())
