"""The optimizer, its clipping of gradients and its learning-rate schedule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from semask_d2.d2 import CfgNode
from semask_d2.utils.errors import UserError

NORM_TYPES = (
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LocalResponseNorm,
)
CLIP_TYPES = ("full_model", "norm", "value")
UNDECAYED_NAMES = ("relative_position_bias_table", "absolute_pos_embed")


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """The trainable parameters of `model`, grouped by learning rate and weight decay.

    The backbone's rate is multiplied by SOLVER.BACKBONE_MULTIPLIER. Norms decay by SOLVER.WEIGHT_DECAY_NORM,
    embeddings by WEIGHT_DECAY_EMBED, position tables not at all, the rest by WEIGHT_DECAY.
    """
    solver = cfg.SOLVER
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    seen: set[nn.Parameter] = set()  # a module may be shared under two names
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            rate, decay = solver.BASE_LR, solver.WEIGHT_DECAY
            if "backbone" in module_name.split("."):
                rate *= solver.BACKBONE_MULTIPLIER
            if name in UNDECAYED_NAMES:
                decay = 0.0
            elif isinstance(module, NORM_TYPES):
                decay = solver.WEIGHT_DECAY_NORM
            elif isinstance(module, nn.Embedding):
                decay = solver.WEIGHT_DECAY_EMBED
            groups[rate, decay].append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that SOLVER.OPTIMIZER names, "ADAMW" or "SGD", over `parameter_groups`, with `add_clipping`."""
    groups = parameter_groups(cfg, model)
    if cfg.SOLVER.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, fused=True)
    elif cfg.SOLVER.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(groups, lr=cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM, fused=True)
    else:
        raise UserError(f'SOLVER.OPTIMIZER: expected "ADAMW" or "SGD", got {cfg.SOLVER.OPTIMIZER!r}')
    return add_clipping(cfg, optimizer)


def poly_with_warmup(
    *, max_iter: int, power: float, constant_ending: float, warmup_iters: int, warmup_factor: float
) -> Callable[[int], float]:
    """The factor on the learning rate at each iteration: (1 - i / max_iter)^power, not below `constant_ending`.

    Over the first `warmup_iters` it is multiplied by a line from `warmup_factor` to 1.
    """

    def factor(iteration: int) -> float:
        poly = max((1 - min(iteration / max_iter, 1)) ** power, constant_ending)
        if iteration >= warmup_iters:
            return poly
        done = iteration / warmup_iters
        return poly * (warmup_factor * (1 - done) + done)

    return factor


def build_poly_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LambdaLR:
    """The schedule "WarmupPolyLR", stepped once an iteration."""
    solver = cfg.SOLVER
    factor = poly_with_warmup(
        max_iter=solver.MAX_ITER,
        power=solver.POLY_LR_POWER,
        constant_ending=solver.POLY_LR_CONSTANT_ENDING,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_factor=solver.WARMUP_FACTOR,
    )
    return LambdaLR(optimizer, factor)


def clip_gradients(
    parameters: Iterable[nn.Parameter], kind: str, *, limit: float | Tensor, norm_type: float = 2.0
) -> None:
    """Clip gradients in place to `limit`, as the `kind` of SOLVER.CLIP_GRADIENTS.CLIP_TYPE says.

    "full_model" clips the norm of all gradients together, "norm" that of each parameter's gradient, "value" each of
    their elements.
    """
    if kind == "full_model":
        nn.utils.clip_grad_norm_(parameters, limit, norm_type)
    elif kind == "norm":
        for parameter in parameters:
            nn.utils.clip_grad_norm_(parameter, limit, norm_type)
    else:
        nn.utils.clip_grad_value_(parameters, limit)


def add_clipping(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let `optimizer` clip the gradients before each of its steps, as SOLVER.CLIP_GRADIENTS asks; returns it.

    So they are clipped in any trainer. Raises `UserError` for a CLIP_TYPE that there is not.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return optimizer
    if clip.CLIP_TYPE not in CLIP_TYPES:
        raise UserError(
            f'SOLVER.CLIP_GRADIENTS.CLIP_TYPE: expected "full_model", "norm" or "value", got {clip.CLIP_TYPE!r}'
        )

    def before_step(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        # a fused optimizer takes gradients that are still multiplied by the scale of mixed precision
        scale = getattr(optimizer, "grad_scale", None)
        limit = clip.CLIP_VALUE if scale is None else clip.CLIP_VALUE * scale
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        clip_gradients(parameters, clip.CLIP_TYPE, limit=limit, norm_type=clip.NORM_TYPE)

    optimizer.register_step_pre_hook(before_step)
    return optimizer
