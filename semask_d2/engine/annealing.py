"""Mask annealing of the encoder-only head: masked attention is phased out during training (EoMT, CVPR 2025)."""

from __future__ import annotations

from torch import nn

from semask_d2.d2 import HookBase
from semask_d2.modeling.heads import EncoderOnlyMaskHead


def annealed_heads(model: nn.Module) -> list[EncoderOnlyMaskHead]:
    """Return the heads of a model whose masks are annealed."""
    return [module for module in model.modules() if isinstance(module, EncoderOnlyMaskHead)]


class MaskAnnealing(HookBase):
    """Sets the probability of masks in `heads` by the number of iterations done, also in a resumed run.

    Register it before the hooks that average weights, write checkpoints and evaluate.
    """

    def __init__(self, heads: list[EncoderOnlyMaskHead]):
        self.heads = heads

    def before_train(self) -> None:
        self.anneal(self.trainer.start_iter)

    def after_step(self) -> None:
        self.anneal(self.trainer.iter + 1)

    def anneal(self, iterations: int) -> None:
        """Set the probabilities after this many iterations."""
        for head in self.heads:
            head.anneal(iterations / max(1, self.trainer.max_iter))
