#!/usr/bin/env python3
"""Draw what a model sees in pictures, videos or a camera: `demo.py --input FILE... --output DIR`."""

import sys

from semask_d2.commands.predict import command_line

if __name__ == "__main__":
    sys.exit(command_line())
