"""How much each class counts in the class loss, in Semantic FPN's loss and in the prior's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semask_d2.utils.arguments import require

AUTO = "auto"


def class_weight_tensor(owner: object, class_weights: Sequence[float | str], num_classes: int) -> Tensor | None:
    """The weights (K,); None where none are given, and for ["auto"], which a training replaces by numbers."""
    if not class_weights or list(class_weights) == [AUTO]:
        return None
    numbers = [weight for weight in class_weights if isinstance(weight, (int, float)) and weight >= 0]
    wanted = f'{num_classes} numbers of at least 0, one a class, or ["auto"]'
    right = len(numbers) == len(class_weights) == num_classes and any(numbers)
    require(right, owner, "class_weights", wanted, list(class_weights))
    return torch.tensor(numbers, dtype=torch.float32)
