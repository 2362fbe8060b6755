"""Setup of a job: its output folder, its log, its seeds, and a summary of the job for the log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

import torch
from torch import nn

from semask_d2 import d2
from semask_d2.d2 import CfgNode, collect_env_info, comm, seed_all_rng, setup_logger
from semask_d2.engine import run_folder
from semask_d2.modeling.kernels.triton_deformable_attention import triton_refusal as attention_refusal
from semask_d2.modeling.kernels.triton_deformable_conv import triton_refusal as convolution_refusal
from semask_d2.modeling.layers.precision import autocast_dtype
from semask_d2.modeling.meta_arch import Execution
from semask_d2.utils.errors import printable

logger = logging.getLogger(__name__)

LOGGERS = ("fvcore", "detectron2", "semask_d2")
LIBRARY = {True: "torchvision", False: "plain"}  # implementation of deformable convolution on GPUs and on CPUs
DETAIL = {"detail": True}  # `extra` of a record that is written only to log.txt


def setup(cfg: CfgNode, *, training: bool, resume: bool) -> None:
    """Set up a job's output folder, log and seeds; training without `resume` moves an earlier run aside.

    Training locks the folder, and `Trainer.train` releases it; see `locking`. Each rank is seeded with SEED plus its
    rank; a negative SEED means random seeds.
    """
    folder, rank = cfg.OUTPUT_DIR, comm.get_rank()
    line = run_folder.prepare(folder, training=training, resume=resume) if comm.is_main_process() else ""
    comm.synchronize()
    end_logs()
    for name in LOGGERS:
        setup_logger(folder, distributed_rank=rank, name=name)
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_printable)
            handler.handleError = _ignore  # a log that cannot be written must not bury the line that says so
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.addFilter(_is_no_detail)
    logger.info("semask_d2 on the %s backend, %s", d2.BACKEND, d2.BACKEND_VERSION)
    if line:
        logger.info("%s", line)
    logger.info("Process %d of %d\n%s", rank, comm.get_world_size(), collect_env_info(), extra=DETAIL)
    logger.info("Command line: %s", " ".join(sys.argv), extra=DETAIL)
    logger.info("Config:\n%s", cfg.dump(), extra=DETAIL)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if training:  # evaluation meets many sizes, each of which would be benchmarked
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    set_product_precision(cfg)


def end_logs() -> None:
    """Remove the handlers of an earlier `setup` in this process, so that each job has its own log."""
    for name in LOGGERS:
        log = logging.getLogger(name)
        log.handlers[:] = [handler for handler in log.handlers if _printable not in handler.filters]
    setup_logger.cache_clear()


def set_product_precision(cfg: CfgNode) -> None:
    """Set the precision of fp32 matrix products to FLOAT32_PRECISION; "high" means TF32 on a GPU."""
    if cfg.FLOAT32_PRECISION:
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)


def _printable(record: logging.LogRecord) -> bool:
    """Escape control characters, which file names may contain, and accept the record."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def _ignore(record: logging.LogRecord) -> None:
    pass


def _is_no_detail(record: logging.LogRecord) -> bool:
    return not getattr(record, "detail", False)


def summary(
    cfg: CfgNode, model: nn.Module, image_counts: Mapping[str, int], *, training: bool, resume: bool = False
) -> str:
    """Return a summary of the run in a dozen lines; `image_counts` holds the number of images of each dataset."""
    solver, head = cfg.SOLVER, cfg.MODEL.SEM_SEG_HEAD
    parameters = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    device = str(next(model.parameters()).device)
    if device.startswith("cuda"):
        device = f"{device} ({torch.cuda.get_device_name(device)})"
    else:
        device = f"{device}, {torch.get_num_threads()} threads"

    def images(names: tuple[str, ...]) -> str:
        return ", ".join(f"{name} ({image_counts[name]} images)" for name in names if name in image_counts) or "none"

    size = f"{parameters / 1e6:.1f} M parameters"
    if training and trainable < parameters:
        size += f", {trainable / 1e6:.1f} M trainable"
    rows = {
        "model": f"{cfg.MODEL.META_ARCHITECTURE} on {cfg.MODEL.BACKBONE.NAME}, {size}, {head.NUM_CLASSES} classes",
        "weights": (cfg.MODEL.WEIGHTS or "random") + (", or the run's last checkpoint (--resume)" if resume else ""),
        "validation": images(cfg.DATASETS.TEST),
        "device": f"{device}; {comm.get_world_size()} process(es); torch {torch.__version__}, {d2.BACKEND} backend",
        "computation": computation(cfg, next(model.parameters()).device, training=training),
        "output": f"{cfg.OUTPUT_DIR} (log.txt has the whole config and the model)",
    }
    if training:
        count = sum(image_counts.get(name, 0) for name in cfg.DATASETS.TRAIN)
        epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / max(count, 1)
        clip = solver.CLIP_GRADIENTS
        rows |= {
            "training": images(cfg.DATASETS.TRAIN),
            "iterations": f"{solver.MAX_ITER} of {solver.IMS_PER_BATCH} images: {epochs:.1f} epochs",
            "optimizer": f"{solver.OPTIMIZER}, rate {solver.BASE_LR:g} (backbone x {solver.BACKBONE_MULTIPLIER:g}), "
            f"weight decay {solver.WEIGHT_DECAY:g}"
            + (f", gradients clipped ({clip.CLIP_TYPE} {clip.CLIP_VALUE:g})" if clip.ENABLED else ""),
            "schedule": f"{solver.LR_SCHEDULER_NAME}, {solver.WARMUP_ITERS} iterations of warm-up",
        }
    return "\n".join(f"  {name:12s}{value}" for name, value in rows.items())


def computation(cfg: CfgNode, device: torch.device, *, training: bool) -> str:
    """Describe the dtype of matrix products, the attention and deformable operators, and the compilation."""
    mixed = autocast_dtype(device, enabled=training and cfg.SOLVER.AMP.ENABLED)
    dtype = Execution.from_config(cfg).dtype(device, training=training) or mixed or torch.float32
    name = str(dtype).removeprefix("torch.")
    if dtype != torch.float32:
        name += " (autocast)"
    elif device.type == "cuda":
        name += f" (products {torch.get_float32_matmul_precision()})"
    decoder = cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME if "MaskFormer" in cfg.MODEL.SEM_SEG_HEAD.NAME else ""
    paths = []
    if decoder.startswith("MSDeform"):
        paths.append("deformable attention " + operator(attention_refusal(device, dtype), "plain", device))
    if decoder.endswith("FANDecoder"):
        library = LIBRARY[device.type == "cuda"]
        paths.append("deformable convolution " + operator(convolution_refusal(device, dtype), library, device))
    compiled = f"compiled ({cfg.MODEL.COMPILE})" if cfg.MODEL.COMPILE else "not compiled"
    in_parts = device.type == "cpu" and training == (dtype == torch.float32)  # see kernels/cpu_attention.py
    attention = "attention in parts" if in_parts else "attention scaled_dot_product_attention"
    return ", ".join([name, attention, *paths, compiled])


def operator(refusal: str, otherwise: str, device: torch.device) -> str:
    """Return the implementation an operator uses: Triton after its check, else `otherwise`, on GPUs with a reason."""
    if not refusal:
        return "Triton (checked)"
    return f"{otherwise} ({refusal})" if device.type == "cuda" else otherwise
