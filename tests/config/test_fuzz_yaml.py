"""Hundreds of damaged config files: each is read, or refused with a `UserError` that names it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from semask_d2.config import get_cfg
from semask_d2.config.yaml_files import read_yaml
from semask_d2.utils.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPE = (CONFIGS / "ade20k/semask_swin_l_m2f.yaml").read_text(encoding="utf-8")
SAMPLE = """\
SOLVER: &s {MAX_ITER: 7, BASE_LR: 1.0e-4, STEPS: [1, 2], GAMMA: .inf}
MODEL:
  SWIN: {DEPTHS: [1, 1], NUM_HEADS: [3, 4], "DROP_PATH_RATE": 0.25}
  WEIGHTS: 'a file.pth'   # a remark
INPUT:
  MIN_SIZE_TRAIN: &sizes [480, 512]
  MAX_SIZE_TRAIN: 0x10
OUTPUT_DIR: |
  text
  in lines
"""
PIECES = r"""
& * &s *s *sizes << <<: ! !! !!python/name:os.mkdir !!binary !!set !!omap % %YAML --- ... ? | > [ ] { } : , - # ' " @ `
~ null true .nan 0b_ 0x_ 1:99:99 2024-13-45 2024-01-01T99:00:00Z 1e999 999999999999999999999999 \ \x "\uD800" = !=
"\UFFFFFFFF" _BASE_: _BASE_ a.yaml &a &a[*a] [[[[ {{{{ ?
"""
CHARACTERS = ["\t", "\n", " ", "\0", "\x85", "\u2028", "\ufeff", "\ud7ff", "\U0001f600"]


def mutated(rng: random.Random, number: int) -> Iterator[bytes]:
    """Generate config files with YAML fragments inserted, lines moved, bytes changed, or the end cut off."""
    pieces = PIECES.split() + CHARACTERS
    for kind in range(number):
        lines = rng.choice([SAMPLE, RECIPE]).splitlines(keepends=True)
        for _ in range(rng.randrange(1, 4)):
            line = rng.randrange(len(lines))
            at = rng.randrange(len(lines[line]) + 1)
            match kind % 4:
                case 0:
                    lines[line] = lines[line][:at] + rng.choice(pieces) + lines[line][at:]
                case 1:
                    lines.insert(rng.randrange(len(lines)), " " * rng.randrange(4) + lines[line])
                case 2:
                    lines[line] = lines[line][:at] + rng.choice(pieces) * rng.randrange(1, 400)
                case 3:
                    lines[line] = lines[line][:at]
        content = bytearray("".join(lines).encode())
        if kind % 8 > 5:
            content[rng.randrange(len(content))] = rng.randrange(256)
        yield bytes(content)


@pytest.mark.parametrize("whole", [True, False])
def test_files_are_read_or_refused(tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "a.yaml"
    read = refused = 0
    for content in mutated(random.Random(int(whole)), 400 if whole else 500):
        path.write_bytes(content)
        started = time.perf_counter()
        try:
            get_cfg(path) if whole else read_yaml(path, chain=())
            read += 1
        except UserError as error:
            refused += str(tmp_path) in str(error)
        except Exception as error:
            pytest.fail(f"{error!r} of {content!r}")
        assert time.perf_counter() - started < 2, content
    assert read + refused == (400 if whole else 500)
    assert read >= 5
    assert refused > 50
