"""The optimizer, gradient clipping and the learning-rate schedule."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from semask_d2.checkpoint.ownership import Owner
from semask_d2.d2 import CfgNode
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section, integer, shown

logger = logging.getLogger(__name__)

NORM_TYPES = (
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LocalResponseNorm,
)
CLIP_TYPES = ("full_model", "norm", "value")
MOMENTS = (
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "momentum_buffer",
)  # optimizer state tensors with the parameter's shape
STATE = (*MOMENTS, "step")
MAX_STEPS = 2**24  # a float32 cannot count further
UNDECAYED_NAMES = ("relative_position_bias_table", "absolute_pos_embed")


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """Return the trainable parameters of `model`, grouped by learning rate and weight decay.

    The learning rate of the backbone is multiplied by SOLVER.BACKBONE_MULTIPLIER and by the `layer_factors`, that of
    its semantic layers also by SEMANTIC_MULTIPLIER, and that of biases by BIAS_LR_FACTOR. The weight decay is
    WEIGHT_DECAY_NORM for norms, WEIGHT_DECAY_EMBED for embeddings, WEIGHT_DECAY_BIAS for biases if it is set, zero for
    position tables, and WEIGHT_DECAY for all others. SOLVER.NORM_PARAMETERS selects norms by "modules" (parameters of
    norm layers) or by "names" (parameters with "norm" in their name, as in the Semantic FPN recipe).
    """
    solver = cfg.SOLVER
    if solver.NORM_PARAMETERS not in ("modules", "names"):
        raise UserError(f'SOLVER.NORM_PARAMETERS: expected "modules" or "names", got {solver.NORM_PARAMETERS!r}')
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    factors = layer_factors(cfg, model)
    seen: set[nn.Parameter] = set()  # a module may be shared under two names
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            rate, decay = solver.BASE_LR * factors.get(parameter, 1.0), solver.WEIGHT_DECAY
            parts = module_name.split(".")
            if "backbone" in parts:
                rate *= solver.BACKBONE_MULTIPLIER
            if any(part.startswith("semantic_layer") for part in parts):
                rate *= solver.SEMANTIC_MULTIPLIER
            by_module = solver.NORM_PARAMETERS == "modules"
            is_norm = isinstance(module, NORM_TYPES) if by_module else "norm" in f"{module_name}.{name}"
            if name == "bias":
                rate *= solver.BIAS_LR_FACTOR
            if name in UNDECAYED_NAMES:
                decay = 0.0
            elif is_norm:
                decay = solver.WEIGHT_DECAY_NORM
            elif isinstance(module, nn.Embedding):
                decay = solver.WEIGHT_DECAY_EMBED
            elif name == "bias" and solver.WEIGHT_DECAY_BIAS is not None:
                decay = solver.WEIGHT_DECAY_BIAS
            groups[rate, decay].append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def layer_factors(cfg: CfgNode, model: nn.Module) -> dict[nn.Parameter, float]:
    """Return the factors of the learning rates by SOLVER.LAYER_DECAY; {} if it is 1.

    The factor of the last layer is LAYER_DECAY, that of the layer before it LAYER_DECAY^2, and so on, as in BEiT (arXiv
    2106.08254). The layers are the `pretrained_layers` of the backbone, then those of a head that has any.
    Raises `UserError` for a backbone without them.
    """
    decay = cfg.SOLVER.LAYER_DECAY
    if decay == 1:
        return {}
    parts: list[Any] = [getattr(model, name, None) for name in ("backbone", "sem_seg_head")]
    layers = [layer for part in parts if hasattr(part, "pretrained_layers") for layer in part.pretrained_layers()]
    if not layers:
        raise UserError(
            f"SOLVER.LAYER_DECAY: expected 1 with MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME}, whose layers have no "
            f"order that is known here, got {decay:g}; SOLVER.BACKBONE_MULTIPLIER lowers the rate of all"
        )
    factors = {x: decay ** (len(layers) - i) for i, layer in enumerate(layers) for x in layer if x.requires_grad}
    if factors:
        highest, lowest = (
            cfg.SOLVER.BASE_LR * cfg.SOLVER.BACKBONE_MULTIPLIER * f(factors.values()) for f in (max, min)
        )
        logger.info(
            "SOLVER.LAYER_DECAY %g: learning rates from %.3g (last of %d layers) to %.3g (first trained one)",
            *(decay, highest, len(layers), lowest),
        )
    return factors


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer named by SOLVER.OPTIMIZER ("ADAMW" or "SGD") over `parameter_groups`, with clipping."""
    groups = parameter_groups(cfg, model)
    if cfg.SOLVER.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, fused=True)
    elif cfg.SOLVER.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(
            groups,
            lr=cfg.SOLVER.BASE_LR,
            momentum=cfg.SOLVER.MOMENTUM,
            nesterov=cfg.SOLVER.NESTEROV,
            fused=True,
        )
    else:
        raise UserError(f'SOLVER.OPTIMIZER: expected "ADAMW" or "SGD", got {cfg.SOLVER.OPTIMIZER!r}')
    return add_clipping(cfg, optimizer)


def decay_of(cfg: CfgNode) -> Callable[[int], float] | None:
    """Return the learning-rate factor as a function of the iteration, without warm-up; None for other schedules.

    "WarmupPolyLR" is (1 - i / MAX_ITER)^POLY_LR_POWER, at least POLY_LR_CONSTANT_ENDING. "WarmupMultiStepLR" is, as in
    Detectron2, GAMMA raised to the number of STEPS that have passed.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupPolyLR":
        max_iter, power, ending = solver.MAX_ITER, solver.POLY_LR_POWER, solver.POLY_LR_CONSTANT_ENDING
        return lambda iteration: max((1 - min(iteration / max_iter, 1)) ** power, ending)
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps, gamma = list(solver.STEPS), solver.GAMMA
        return lambda iteration: gamma ** bisect_right(steps, iteration)
    return None


def build_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LambdaLR | None:
    """Return the schedule named by SOLVER.LR_SCHEDULER_NAME, stepped once per iteration; None for other schedules.

    During the first WARMUP_ITERS the rate is multiplied by a factor that rises linearly from WARMUP_FACTOR to 1, or
    stays at WARMUP_FACTOR with the WARMUP_METHOD "constant".
    """
    decay = decay_of(cfg)
    if decay is None:
        return None
    iterations, start = cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR
    constant = cfg.SOLVER.WARMUP_METHOD == "constant"

    def factor(iteration: int) -> float:
        if iteration >= iterations:
            return decay(iteration)
        done = 0 if constant else iteration / iterations
        return decay(iteration) * (start * (1 - done) + done)

    return LambdaLR(optimizer, factor)


def clip_gradients(parameters: Iterable[nn.Parameter], kind: str, *, limit: Any, norm_type: float = 2.0) -> None:
    """Clip gradients in place to `limit` (a number or a tensor); `kind` is a value of SOLVER.CLIP_GRADIENTS.CLIP_TYPE.

    "full_model" clips the norm of all gradients together, "norm" the norm of each parameter's gradient, and "value"
    each element.
    """
    if kind == "full_model":
        nn.utils.clip_grad_norm_(parameters, limit, norm_type)
    elif kind == "norm":
        for parameter in parameters:
            nn.utils.clip_grad_norm_(parameter, limit, norm_type)
    else:
        nn.utils.clip_grad_value_(parameters, limit)


def add_clipping(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Make `optimizer` clip the gradients before each step, as SOLVER.CLIP_GRADIENTS says, and return it.

    The clipping therefore works in any trainer. Raises `UserError` for an unknown CLIP_TYPE.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return optimizer
    if clip.CLIP_TYPE not in CLIP_TYPES:
        raise UserError(
            f'SOLVER.CLIP_GRADIENTS.CLIP_TYPE: expected "full_model", "norm" or "value", got {clip.CLIP_TYPE!r}'
        )

    def before_step(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        # with mixed precision a fused optimizer gets gradients that are still scaled
        scale = getattr(optimizer, "grad_scale", None)
        limit = clip.CLIP_VALUE if scale is None else clip.CLIP_VALUE * scale
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        clip_gradients(parameters, clip.CLIP_TYPE, limit=limit, norm_type=clip.NORM_TYPE)

    optimizer.register_step_pre_hook(before_step)
    return optimizer


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Restore the optimizer's state of each parameter, but not its settings, which come from this run's config.

    Everything is checked before anything is loaded. Loaded tensors share no memory, because fused kernels would write
    into shared memory. Raises `UserError` if the state does not fit this optimizer.
    """
    message = (
        "the checkpoint's optimizer state does not fit: {}; resume with the settings and the model it was saved with"
    )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    try:
        saved = Section.of(state, "the whole")
        groups = [Section.of(group, "a group").entries("params") for group in saved.entries("param_groups")]
        order = [integer(index, "a parameter's number") for group in groups for index in group]
        states: dict[Any, Any] = dict(saved.section("state").values)
    except UserError as error:
        raise UserError(message.format(f"it is not an optimizer state ({error})")) from error
    saved_sizes = [len(group) for group in groups]
    if saved_sizes != sizes or len(set(order)) != len(order):
        raise UserError(message.format(f"it has groups of {saved_sizes} parameters, this run's has {sizes}"))
    expected = [name for name in STATE if name in expected_state(optimizer)]
    if states and set(states) != set(order):
        raise UserError(message.format(f"it holds {len(states)} of {len(order)} parameters"))
    for index, parameter in zip(order, parameters, strict=True):
        for problem in state_problems(states.get(index, {}), parameter, expected) if states else ():
            raise UserError(message.format(f"parameter {index}: {problem}"))
    owner = Owner()
    states = {
        index: {name: matching(name, value, parameter, owner) for name, value in states[index].items()}
        for index, parameter in zip(order, parameters, strict=True)
        if states
    }
    indices = iter(order)
    run_groups = [{**group, "params": [next(indices) for _ in group["params"]]} for group in optimizer.param_groups]
    optimizer.load_state_dict({"state": states, "param_groups": run_groups})


def matching(name: str, value: Any, parameter: nn.Parameter, owner: Owner) -> Any:
    """Return an entry of a parameter's state in the form the optimizer needs: a tensor that shares no memory.

    A tensor of the parameter's shape also gets the parameter's memory layout. The step count becomes a tensor.
    """
    if name == "step":
        return torch.tensor(float(value))
    if not isinstance(value, Tensor):
        return value
    value = owner.tensor(value, name)
    if value.shape == parameter.shape and value.stride() != parameter.stride():
        return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value).detach()
    return value


def expected_state(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Return the names of the state that an optimizer keeps for each parameter."""
    if isinstance(optimizer, torch.optim.AdamW):
        return ("step", "exp_avg", "exp_avg_sq")
    if isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"]:
        return ("momentum_buffer",)
    return ()


def state_problems(state: Any, parameter: nn.Parameter, expected: list[str]) -> Iterator[str]:
    """Yield the problems of one parameter's saved state, which needs the entries `expected`."""
    if not isinstance(state, dict):
        yield f"expected a dict, got a {type(state).__name__}"
        return
    if missing := [name for name in expected if name not in state]:
        yield f"{missing[0]} is missing"
    for name, value in state.items():
        if name == "step":
            yield from step_problems(value)
        elif name in MOMENTS and (not isinstance(value, Tensor) or value.shape != parameter.shape):
            yield f"{name} has the shape {tuple(getattr(value, 'shape', ()))}, the parameter {tuple(parameter.shape)}"
        elif isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_meta or value.is_quantized:
                yield f"{name} is not a dense tensor"
            elif not value.is_floating_point():
                yield f"{name} is {value.dtype}, expected floating-point numbers"
            elif name not in MOMENTS and value.numel() != 1:
                yield f"{name} has the shape {tuple(value.shape)}, expected one number"
            elif name in MOMENTS and not is_usable_moment(name, value.float()):
                yield f"{name} holds values that would make the weights infinite; resume from an earlier checkpoint"
        elif value is not None and not isinstance(value, (bool, int, float)):
            yield f"{name} is a {type(value).__name__}"


def is_usable_moment(name: str, value: Tensor) -> bool:
    """Return whether the weights stay finite in the next step; an infinite mean square only freezes a weight."""
    if name.endswith("_sq"):
        return bool((value >= 0).all())  # false for NaN
    return bool(value.isfinite().all())


def step_problems(value: Any) -> Iterator[str]:
    """Yield the problems of an optimizer's saved step count."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            yield "step is not a dense tensor"
        elif value.numel() != 1:
            yield f"step has the shape {tuple(value.shape)}, expected one number"
        elif value.is_complex():
            yield f"step is {value.dtype}"
        else:
            yield from step_problems(value.item())
    elif type(value) not in (int, float) or not 0 <= value <= MAX_STEPS:
        yield f"step is {shown(value)}, expected a number from 0 to {MAX_STEPS}"


def load_scheduler_state(scheduler: LRScheduler, state: Any) -> None:
    """Restore the position of a schedule; its base rates and shape come from this run's config."""
    epoch = Section.of(state, "the checkpoint's learning-rate schedule").integer("last_epoch", low=0)
    scheduler.last_epoch = epoch
    scheduler._step_count = epoch + 1
    for group, rate in zip(scheduler.optimizer.param_groups, scheduled_rates(scheduler), strict=True):
        group["lr"] = rate
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def scheduled_rates(scheduler: LRScheduler) -> list[Any]:
    """Return the learning rate of each group at `scheduler.last_epoch`."""
    if isinstance(scheduler, LambdaLR):
        return [
            base * factor(scheduler.last_epoch)
            for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
    return scheduler.get_lr()  # Detectron2's schedulers, which also depend on the iteration alone
