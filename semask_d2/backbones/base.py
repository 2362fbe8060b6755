"""What every SeMask backbone shares: its named outputs and the semantic layers of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from semask_d2.d2 import Backbone, CfgNode
from semask_d2.errors import UserError
from semask_d2.layers.semantic_attention import SemanticInit, SemanticLayer


class SemanticSettings(NamedTuple):
    """How a backbone's semantic layers are built, one after each stage; `num_blocks` 0 means none.

    `windowed_stages` lists the stages (from 0) that attend within windows of side `window`; the others attend
    globally. The parameters have the same shapes either way, so a released checkpoint needs the rule it was
    trained with.
    """

    num_classes: int
    window: int = 7
    windowed_stages: Sequence[int] = (0, 1)
    num_blocks: int = 1
    init: SemanticInit = "live"

    @classmethod
    def from_config(cls, cfg: CfgNode, section: str) -> SemanticSettings:
        """Read SEM_* and NUM_SEM_BLOCKS of the config section MODEL.`section`."""
        node = cfg.MODEL[section]
        if not set(node.SEM_WINDOWED_STAGES) <= set(range(4)):
            raise UserError(
                f"MODEL.{section}.SEM_WINDOWED_STAGES: expected stage indices from 0 to 3, "
                f"got {list(node.SEM_WINDOWED_STAGES)}"
            )
        if node.SEM_INIT not in ("live", "released"):
            raise UserError(f'MODEL.{section}.SEM_INIT: expected "live" or "released", got {node.SEM_INIT!r}')
        return cls(
            num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            window=node.SEM_WINDOW_SIZE,
            windowed_stages=tuple(node.SEM_WINDOWED_STAGES),
            num_blocks=node.NUM_SEM_BLOCKS,
            init=node.SEM_INIT,
        )

    def layer(self, stage: int, dim: int) -> SemanticLayer | None:
        """The semantic layer that follows `stage`, of width `dim`."""
        if not self.num_blocks:
            return None
        window = self.window if stage in self.windowed_stages else None
        return SemanticLayer(dim, self.num_classes, window=window, num_blocks=self.num_blocks, init=self.init)


class HierarchicalBackbone(Backbone):
    """A backbone of four stages with outputs `res2`..`res5`, and `sem2`..`sem5` where it has semantic layers."""

    def __init__(self):
        super().__init__()
        self._out_features: list[str] = []
        self._out_feature_channels: dict[str, int] = {}
        self._out_feature_strides: dict[str, int] = {}

    def declare_outputs(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        semantic: SemanticSettings,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
    ) -> None:
        """Name the outputs: those of `out_features`, with their width and stride, and all semantic maps."""
        outputs = [(f"res{i}", dim, stride) for i, (dim, stride) in enumerate(zip(dims, strides, strict=True), 2)]
        outputs = [output for output in outputs if output[0] in out_features]
        if semantic.num_blocks:
            outputs += [(f"sem{i}", semantic.num_classes, stride) for i, stride in enumerate(strides, 2)]
        for name, channels, stride in outputs:
            self._out_features.append(name)
            self._out_feature_channels[name] = channels
            self._out_feature_strides[name] = stride

    @property
    def size_divisibility(self) -> int:
        """32, the stride of `res5`, so that every stage's size is the input's over its stride."""
        return max(self._out_feature_strides.values())
