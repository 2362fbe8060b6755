"""Stands for `detectron2.engine.train_loop`: the loop over iterations and the hooks around it."""

from __future__ import annotations

import logging
import weakref
from typing import Any

from semask_d2.d2.native.events import EventStorage

_logger = logging.getLogger("detectron2.engine.train_loop")


class HookBase:
    """Something that happens around a trainer's iterations; `trainer` is set when it is registered."""

    trainer: TrainerBase = None

    def before_train(self) -> None:
        """Run once, before the first iteration."""

    def after_train(self) -> None:
        """Run once, after the last iteration, and also when one failed."""

    def before_step(self) -> None:
        """Run before each iteration."""

    def after_backward(self) -> None:
        """Run between an iteration's backward pass and its optimiser step."""

    def after_step(self) -> None:
        """Run after each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; a hook that returns something has `load_state_dict` too."""
        return {}


class TrainerBase:
    """A loop over iterations with hooks; a subclass says in `run_step` what an iteration does.

    `iter` is the running iteration, which starts at `start_iter` and stays below `max_iter`; it equals `max_iter`
    in `after_train` only if training came to its end. `storage` takes the scalars while `train` runs.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Append hooks, which run in this order; None entries are left out."""
        for hook in hooks:
            if hook is not None:
                assert isinstance(hook, HookBase)
                hook.trainer = weakref.proxy(self)  # a cycle would keep the GPU memory of a dropped trainer
                self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations from `start_iter` to below `max_iter`."""
        _logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):  # noqa: B020 - hooks read self.iter
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter += 1
            except Exception:
                _logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        """Do one iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration and the hooks' states by class name; of two hooks of one class, the first's."""
        states: dict[str, Any] = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                states.setdefault(type(hook).__qualname__, state)
        return {"iteration": self.iter, **({"hooks": states} if states else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over iteration and hook states; the state of a hook that is not here is dropped with a warning."""
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook = next((hook for hook in self._hooks if type(hook).__qualname__ == name), None)
            if hook is None:
                _logger.warning(f"Cannot find the hook '{name}', its state_dict is ignored.")
            else:
                hook.load_state_dict(state)
