"""Weights of the classes in the class loss, in Semantic FPN's loss and in the prior loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semask_d2.utils.arguments import require

AUTO = "auto"


def class_weight_tensor(owner: object, class_weights: Sequence[float | str], num_classes: int) -> Tensor | None:
    """Return the weights (K,); None for [], and for ["auto"], which training replaces by numbers."""
    if not class_weights or list(class_weights) == [AUTO]:
        return None
    numbers = [weight for weight in class_weights if isinstance(weight, (int, float)) and weight >= 0]
    expected = f'{num_classes} numbers of at least 0, one per class, or ["auto"]'
    valid = len(numbers) == len(class_weights) == num_classes and any(numbers)
    require(valid, owner, "class_weights", expected, list(class_weights))
    return torch.tensor(numbers, dtype=torch.float32)
