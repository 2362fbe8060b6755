"""One training iteration: from batches to losses, gradients and an optimizer step."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semask_d2.d2 import TrainerBase, comm, get_event_storage
from semask_d2.engine.optimizer import load_optimizer_state
from semask_d2.engine.stopping import StopRequest
from semask_d2.modeling.meta_arch import Execution
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write
from semask_d2.utils.foreign import Section


def seed_forward(seed: int, iteration: int, part: int, rank: int) -> None:
    """Seed torch for the forward pass of one process on one part of an iteration's batch.

    Dropout and sampled points then depend on these numbers alone, so that a resumed run repeats them exactly.
    """
    sequence = np.random.SeedSequence((seed, iteration, part, rank))
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


class HostCopy:
    """An asynchronous copy of a tensor to the host, while its device continues computing."""

    def __init__(self, values: Tensor):
        self.values = values.to("cpu", non_blocking=True)  # from a GPU into pinned memory
        self.arrival = torch.cuda.Event() if values.device.type == "cuda" else None
        if self.arrival is not None:
            self.arrival.record()

    def tolist(self) -> list[float]:
        """Wait for the copy, and return the numbers."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return self.values.tolist()


def scale_state(saved: Section) -> dict[str, Any]:
    """Return the saved state of the gradient scaler; `UserError` for values out of range."""
    return {
        "scale": saved.number("scale", low=1e-30, high=1e30),
        "growth_factor": saved.number("growth_factor", low=1, high=1e6),
        "backoff_factor": saved.number("backoff_factor", low=1e-6, high=1),
        "growth_interval": saved.integer("growth_interval", low=1),
        "_growth_tracker": saved.integer("_growth_tracker", low=0),
    }


class TrainingStep(TrainerBase):
    """The inner trainer: `accumulation_steps` batches for one optimizer step.

    The model runs under `execution`, and in mixed precision of `dtype` (None: no mixed precision). If the loss is not
    finite on any process, all raise `UserError` before the weights change, and each process saves its part of the
    batch in `output_dir`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        execution: Execution,
        dtype: torch.dtype | None,
        accumulation_steps: int,
        seed: int,
        output_dir: str,
    ):
        super().__init__()
        model.train()
        self.model = model
        self.optimizer = optimizer
        self.data_loader: Iterable[list[dict]] = ()
        self.execution = execution
        self.dtype = dtype
        self.accumulation_steps = accumulation_steps
        self.seed = seed
        self.output_dir = output_dir
        self.scaler = torch.amp.GradScaler(enabled=dtype == torch.float16)
        self.stop_request = StopRequest()
        self.must_stop = False  # True if any process got a stop signal, so that all stop after the same step

    def begin(self, data_loader: Iterable[list[dict]]) -> None:
        """Set the loader, whose first batch belongs to the next iteration."""
        self.data_loader = data_loader
        self.batches = iter(data_loader)

    def run_step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        data_time = 0.0
        batches: list[list[dict]] = []
        total: dict[str, Tensor] = {}
        host_copy = None
        for i in range(self.accumulation_steps):
            start = time.perf_counter()
            batch = next(self.batches)
            data_time += time.perf_counter() - start
            batches.append(batch)
            seed_forward(self.seed, self.iter, i, comm.get_rank())  # after `next`, since a new loader draws numbers
            last = i == self.accumulation_steps - 1
            with self.gradient_sync(last):
                losses = self.losses(batch)
                total = {name: loss.detach() + total.get(name, 0.0) for name, loss in losses.items()}
                if last:
                    # Before the backward pass, so that the losses reach the host while the GPU computes gradients. They
                    # can then be checked for NaN before the weights change, without waiting for the gradients.
                    host_copy = self.send(total)
                loss: Any = sum(losses.values())
                self.scaler.scale(loss).backward()
        assert host_copy is not None  # there is at least one accumulation step
        self.record(list(total), host_copy.tolist(), data_time, batches)
        self.scaler.unscale_(self.optimizer)  # before the step, since some optimizers clip gradients
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def gradient_sync(self, last: bool) -> AbstractContextManager:
        """Return a context in which only the backward pass of the `last` batch averages gradients over processes."""
        wrapped = self.model if isinstance(self.model, nn.parallel.DistributedDataParallel) else None
        return nullcontext() if wrapped is None or last else wrapped.no_sync()

    def losses(self, batch: list[dict]) -> dict[str, Tensor]:
        """Return the losses of one batch, each divided by the number of accumulation steps."""
        device = next(self.model.parameters()).device
        mixed = torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype is not None)
        with mixed, self.execution.autocast(self.model):
            losses = self.model(batch)
        return {name: loss / self.accumulation_steps for name, loss in losses.items()}

    def send(self, losses: dict[str, Tensor]) -> HostCopy:
        """Start copying the mean losses over processes, and the share of processes that must stop, to the host."""
        values = torch.stack([loss.float() for loss in losses.values()])
        asked = values.new_full((1,), float(self.stop_request.signal is not None))
        values = torch.cat([values, asked])  # together, so that both take one exchange
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(values)
            values /= comm.get_world_size()
        return HostCopy(values)

    def record(self, names: list[str], values: list[float], data_time: float, batches: list[list[dict]]) -> None:
        """Record the values of `send` in the event storage; raise `UserError` if a loss is not finite."""
        *numbers, asked_share = values
        self.must_stop = asked_share > 0
        means: dict[str, Any] = dict(zip(names, numbers, strict=True))
        if not all(map(math.isfinite, means.values())):
            wrong = ", ".join(f"{name} {value}" for name, value in means.items() if not math.isfinite(value))
            images = ", ".join(x.get("file_name", "(no name)") for batch in batches for x in batch)
            raise UserError(
                f"the loss is not finite at iteration {self.iter}: {wrong}; images: {images}; "
                f"{self.keep(batches, means)}. The weights were not changed. "
                "Lower SOLVER.BASE_LR, switch off SOLVER.AMP.ENABLED, or check these images"
            )
        if comm.is_main_process():
            get_event_storage().put_scalars(data_time=data_time, total_loss=sum(means.values()), **means)

    def keep(self, batches: list[list[dict]], losses: dict[str, float]) -> str:
        """Save this process's batches for inspection; return a text with their path, or why they were not saved."""
        rank = comm.get_rank()
        path = os.path.join(self.output_dir, f"non_finite_batch{f'_rank{rank}' if rank else ''}.pth")
        try:
            with atomic_write(path, "wb") as file:
                torch.save({"iteration": self.iter, "losses": losses, "batches": batches}, file)
        except (OSError, UserError) as error:
            return f"the batch could not be saved ({error})"
        return f"the batch is in {path}"

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "seed": self.seed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = Section.of(state_dict, "the checkpoint's state of the training step")
        super().load_state_dict({"iteration": state.integer("iteration", low=0)})
        load_optimizer_state(self.optimizer, state.get("optimizer"))
        self.seed = state.integer("seed", self.seed, low=0, high=2**64)  # Detectron2's trainers do not save a seed
        scale = state.section("scaler", None) or state.section("grad_scaler", None)  # the latter is Detectron2's key
        if scale and scale.values and self.scaler.is_enabled():
            self.scaler.load_state_dict(scale_state(scale))
