#!/usr/bin/env bash
# Everything that only a machine with a GPU can show: benchmarks/gpu.sh [PYTHON [OPTIONS OF gpu.py ...]]
# The tests first, whose cases for a GPU then run, then benchmarks/gpu.py; all of it also goes to gpu_report.txt.
set -uo pipefail
cd "$(dirname "$0")/.."
default=python3
[ -x .venv/bin/python ] && default=.venv/bin/python
python="${1:-$default}"
{
    nvidia-smi || echo "no nvidia-smi"
    .ci/test "$python" native || echo "THE TESTS FAILED"
    "$python" benchmarks/gpu.py "${@:2}"
} 2>&1 | tee gpu_report.txt
