#!/usr/bin/env python3
"""GPU benchmark: training and inference of the published models, a profile, single operators, and a training run.

    python benchmarks/gpu.py [--only PART ...] [--steps 50] [--quick] [--repeats N] [--json gpu.json]

`benchmarks/gpu.sh` runs the tests first, then this script. The data are synthetic except for CamVid, which is skipped
with a message if its files are missing. A part that fails does not stop the others; failures are listed at the end.
`--quick` uses tiny sizes, also on a CPU, and only shows that the script works. The full benchmark has not been run yet.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from inference import fast_paths
from timing import keep, machine, parser, report, time_in_turn, time_of
from torch.utils.flop_counter import FlopCounterMode
from training_step import batch

from semask_d2 import UserError, build_model, get_cfg
from semask_d2.config.finding import configs_folder
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.engine.optimizer import build_optimizer
from semask_d2.engine.setup import computation
from semask_d2.engine.step import TrainingStep
from semask_d2.modeling.layers.precision import autocast_dtype
from semask_d2.modeling.meta_arch import Execution

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ("ade20k", "cityscapes", "coco_stuff10k")
LARGE = "ade20k/semask_swin_l_msfapn_m2f.yaml"
SMALL = "toy_scenes/semask_swin_mini_msfapn_m2f.yaml"
CAMVID = "camvid/semask_swin_t_msfapn_m2f.yaml"
WARM_UP = 3


class Scale(NamedTuple):
    """Size of the benchmark."""

    configs: list[str]
    model: str  # config for inference, profile and the training step
    size: int | None  # side of the images; None: the config's size
    images: int | None
    steps: int
    batches: tuple[int, ...]
    matrix: int  # side of the matrices that measure the peak rate
    compiles: bool


def full(steps: int) -> Scale:
    """Return the full scale: every published config at its image size."""
    names = [
        f"{folder}/{path.name}" for folder in PUBLISHED for path in sorted((configs_folder() / folder).glob("*.yaml"))
    ]
    return Scale(names, LARGE, None, None, steps, (1, 8), 8192, True)


def device() -> torch.device:
    """Return the device of the benchmark."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Wait for the GPU to finish, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def fresh_memory() -> Iterator[None]:
    """Measure the peak of GPU memory within the block only."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield


def peak() -> str:
    """Return the largest allocation on the GPU since `fresh_memory`."""
    return f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MB" if torch.cuda.is_available() else "not measured"


def trainer(config: str, scale: Scale, *options: object) -> tuple[TrainingStep, str]:
    """Return a config's training step in mixed precision on synthetic images of the crop size, and a description."""
    words = [str(word) for word in ("MODEL.DEVICE", device().type, "SOLVER.AMP.ENABLED", True, "MODEL.WEIGHTS", "")]
    cfg = get_cfg(config, [*words, *map(str, options)])
    side = scale.size or max(cfg.INPUT.CROP.SIZE)
    images, parts = scale.images or cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
    model = build_model(cfg)
    step = TrainingStep(
        model,
        build_optimizer(cfg, model),
        execution=Execution.from_config(cfg),
        dtype=autocast_dtype(device(), enabled=True),
        accumulation_steps=parts,
        seed=0,
        output_dir=tempfile.gettempdir(),
    )
    inputs = batch(side, images // parts)
    if torch.cuda.is_available():
        inputs = [{name: value.pin_memory() for name, value in x.items()} for x in inputs]
    step.begin(itertools.repeat(inputs))
    return step, f"{images} images of {side}, {computation(cfg, device(), training=True)}"


def seconds_per_step(step: TrainingStep, steps: int) -> float:
    """Return the mean duration of `steps` steps, after a few warm-up steps."""
    step.train(0, WARM_UP)
    synchronize()
    return time_of(lambda: step.train(WARM_UP, WARM_UP + steps)) / steps


def train_configs(scale: Scale, arguments) -> None:
    """Train every published config for a few steps: milliseconds per step, memory, and a finite loss."""
    print("\n| config | what | ms per step | peak | loss of the last step |\n|---|---|---|---|---|")
    figures = {}
    for config in scale.configs:
        for parts in (1, 2, 4, 8):  # more parts if memory is short
            try:
                with fresh_memory():
                    step, what = trainer(config, scale, "SOLVER.GRADIENT_ACCUMULATION_STEPS", parts)
                    seconds = seconds_per_step(step, scale.steps)
            except torch.cuda.OutOfMemoryError:
                step = None
                continue
            loss = step.storage.history("total_loss").latest()
            figures[config] = {"ms per step": 1000 * seconds, "peak": peak(), "loss": loss, "parts": parts}
            print(f"| {config} | {what}, {parts} part(s) | {1000 * seconds:.1f} | {peak()} | {loss:.3f} |", flush=True)
            break
        else:
            raise MemoryError(f"{config}: too large in 8 parts")
    keep("training of every config", {"machine": machine(), "figures": figures}, arguments.json)


def infer(scale: Scale, arguments) -> None:
    """Measure images per second of the large model by batch size and precision, and compiled."""
    ways = {"fp32": [], "fp32, TF32 products": [], "bf16": ["MODEL.PRECISION", "bf16"]}
    if scale.compiles:
        ways["bf16, compiled"] = ["MODEL.PRECISION", "bf16", "MODEL.COMPILE", "default"]
        ways["bf16, CUDA graphs"] = ["MODEL.PRECISION", "bf16", "MODEL.COMPILE", "reduce-overhead"]
    print(f"\n| {scale.model}, batch | way | images per second | peak |\n|---|---|---|---|")
    figures = {}
    for images, (name, options) in itertools.product(scale.batches, ways.items()):
        torch.set_float32_matmul_precision("high" if "TF32" in name else "highest")
        options = ["MODEL.DEVICE", device().type, *options]
        with fresh_memory():
            way = fast_paths(scale.model, options, scale.size or 640, images)
            seconds = statistics.median(time_in_turn({name: way}, arguments.repeats)[name])
        figures[f"batch {images}, {name}"] = {"images per second": images / seconds, "peak": peak()}
        print(f"| {images} | {name} | {images / seconds:.2f} | {peak()} |", flush=True)
    torch.set_float32_matmul_precision("highest")
    keep("inference", {"machine": machine(), "figures": figures}, arguments.json)


def matrix_peak(side: int) -> float:
    """Return the measured rate of bf16 products of square matrices, in TFLOP/s."""
    a, b = torch.randn(2, side, side, device=device(), dtype=torch.bfloat16)
    for _ in range(WARM_UP):
        a @ b
    synchronize()
    return 20 * 2 * side**3 / time_of(lambda: [a @ b for _ in range(20)]) / 1e12


def profile(scale: Scale, arguments) -> None:
    """Profile a training step of the large model: its rate relative to the matrix peak, and the slowest operators."""
    rate = matrix_peak(scale.matrix)
    for compilation in ("", "default") if scale.compiles else ("",):
        with fresh_memory():
            step, what = trainer(scale.model, scale, "MODEL.COMPILE", compilation)
            seconds = seconds_per_step(step, scale.steps)
        most = peak()
        name = f"training step, {what}"
        figures: dict = {
            "machine": machine(),
            "ms per step": 1000 * seconds,
            "peak": most,
            "matrix peak, TFLOP/s": rate,
        }
        print(f"\n{name}: {1000 * seconds:.1f} ms, {most}; bf16 matrix peak, measured: {rate:.1f} TFLOP/s")
        if not compilation:
            with FlopCounterMode(display=False) as counter:  # counts products, convolutions and attention
                step.train(0, 1)
            share = counter.get_total_flops() / seconds / 1e12 / rate
            print(f"{counter.get_total_flops() / 1e12:.3f} TFLOP counted a step: {100 * share:.1f} % of that peak")
            figures["share of the matrix peak"] = share
        with torch.profiler.profile() as profiler:
            step.train(0, 2)
            synchronize()
        order = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        print(profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60), flush=True)
        keep(name, figures, arguments.json)


def operators(scale: Scale, arguments) -> None:
    """Measure deformable attention and convolution, forward and backward: Triton, torchvision's operator, plain."""
    from semask_d2.modeling.layers.deformable_attention import deformable_attention
    from semask_d2.modeling.layers.feature_alignment import FeatureAlignment

    side = (scale.size or 640) // 8
    sizes = [(side, side), (side // 2, side // 2), (side // 4, side // 4)]
    tokens, half = sum(h * w for h, w in sizes), torch.bfloat16
    reference = torch.rand(tokens, 2, device=device())
    value = torch.randn(2, tokens, 8, 32, device=device(), dtype=half, requires_grad=True)
    offsets = torch.randn(2, tokens, 8, 3, 4, 2, device=device(), dtype=half, requires_grad=True)
    logits = torch.randn(2, tokens, 8, 3, 4, device=device(), dtype=half, requires_grad=True)
    layer = FeatureAlignment(256, torch.nn.GroupNorm(32, 256)).to(device())
    lateral, coarse = torch.randn(2, 2, 256, 2 * side, 2 * side, device=device())
    choices = ("plain", "triton") if torch.cuda.is_available() else ("plain",)

    def attend(choice: str) -> None:
        with mock.patch.dict("os.environ", SEMASK_D2_DEFORMABLE_ATTENTION=choice):
            deformable_attention(value, sizes, reference, offsets, logits).sum().backward()

    def align(choice: str) -> None:
        with mock.patch.dict("os.environ", SEMASK_D2_DEFORMABLE_CONVOLUTION=choice):
            with torch.autocast(device().type, half):
                out = layer(lateral, coarse)
            out.sum().backward()

    report(f"deformable attention, bf16, {tokens} queries", {c: lambda c=c: attend(c) for c in choices}, arguments)
    ways = {("torchvision, fp32" if c == "plain" else "Triton, bf16"): lambda c=c: align(c) for c in choices}
    report(f"feature alignment, {2 * side} x {2 * side}", ways, arguments)


def train_camvid(scale: Scale, arguments) -> None:
    """Train SeMask-T on CamVid from scratch with its config."""
    try:
        for name in get_cfg(CAMVID).DATASETS.TRAIN:
            get_dataset_dicts(name)
    except UserError as error:
        print(f"CamVid: not run: {error}")
        return
    words = ["train", "--config-file", CAMVID, "OUTPUT_DIR", "output/gpu_camvid", "SOLVER.AMP.ENABLED", "True"]
    subprocess.run([sys.executable, "-m", "semask_d2", *words, "MODEL.WEIGHTS", ""], cwd=ROOT, check=True)


PARTS = {
    "training": train_configs,
    "inference": infer,
    "profile": profile,
    "operators": operators,
    "camvid": train_camvid,
}
QUICK = Scale([SMALL, "toy_scenes/semask_swin_mini_fpn.yaml"], SMALL, 64, 2, 2, (1, 2), 128, False)


def main() -> None:
    command_line = parser(__doc__)
    command_line.set_defaults(json=Path("gpu.json"))
    command_line.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="run only these parts")
    command_line.add_argument("--steps", type=int, default=50, help="training steps per measurement")
    command_line.add_argument("--quick", action="store_true", help="tiny sizes, also on a CPU, without CamVid")
    arguments = command_line.parse_args()
    if not (arguments.quick or torch.cuda.is_available()):
        sys.exit("torch finds no GPU; --quick runs a small check on a CPU")
    scale = QUICK if arguments.quick else full(arguments.steps)
    print(machine())
    failed = []
    for name in arguments.only:
        if arguments.quick and name == "camvid":
            continue
        print(f"\n## {name}", flush=True)
        try:
            PARTS[name](scale, arguments)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the reasons are above")


if __name__ == "__main__":
    main()
