"""Layers of a backbone in the order of application, for learning rates that depend on the depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

CONTAINERS = (nn.ModuleList, nn.Sequential)


def layers_of(parts: Sequence[Sequence[nn.Module]], parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return `parameters` by layer: the stem, then each block of each stage.

    `parts` are the modules of the stem and of the stages. Modules of a stage outside of its blocks, such as a patch
    merging, belong to its first block. Parameters in no stage belong to the stem.
    """
    layers = [[]]
    for part in parts[1:]:
        blocks = [[*block.parameters()] for block in blocks_of(part)]
        in_blocks = {parameter for block in blocks for parameter in block}
        blocks[0] += [x for module in part for x in module.parameters() if x not in in_blocks]
        layers += blocks
    in_stages = {parameter for layer in layers for parameter in layer}
    layers[0] = [parameter for parameter in parameters if parameter not in in_stages]
    return layers


def blocks_of(stage: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the blocks of a stage: those in its containers, or else its modules."""
    blocks: list[nn.Module] = []
    for module in stage:
        container = module if isinstance(module, CONTAINERS) else getattr(module, "blocks", None)
        blocks += [*container] if isinstance(container, CONTAINERS) else []
    return blocks or [*stage]
