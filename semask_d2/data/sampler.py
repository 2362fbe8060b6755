"""The order of training images, which depends on the seed and the position alone.

Position p of the endless stream is image p % n of epoch p // n, or the image that `RareClasses` draws for it. The image
at a position and its augmentation do not depend on the number of workers, on stops and resumes, or on the number of
ranks that share a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from semask_d2.data.class_balance import RareClasses
from semask_d2.data.serialized import SerializedDicts
from semask_d2.utils.errors import UnreadableFile, UserError

logger = logging.getLogger(__name__)


class PositionSampler(Sampler[list[int]]):
    """An endless stream of this rank's positions, a list per batch.

    Global batch i covers positions [i * B, (i + 1) * B) with B = `world_size` * `per_rank_batch`, and each
    rank takes its contiguous part, from batch `start` on.
    """

    def __init__(self, *, start: int, rank: int, world_size: int, per_rank_batch: int) -> None:
        self.start = start
        self.rank = rank
        self.world_size = world_size
        self.per_rank_batch = per_rank_batch

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.start
        while True:
            first = (batch * self.world_size + self.rank) * self.per_rank_batch
            yield list(range(first, first + self.per_rank_batch))
            batch += 1


class PositionedDataset(Dataset):
    """Maps a position of the stream to its sample: reshuffled each epoch, augmented by a generator of the position.

    With `rare_classes` there are no epochs: each position draws an image, and passes the class that it is drawn for
    to the mapper as `target_class`. A UserError of the mapper is returned in place of the sample, so that it crosses
    from a worker unchanged. With `skip_unreadable`, the next readable image replaces an unreadable one.
    """

    def __init__(
        self,
        dicts: Sequence[dict[str, Any]],
        mapper: Callable[..., dict[str, Any]],
        seed: int,
        *,
        skip_unreadable: bool = False,
        rare_classes: RareClasses | None = None,
    ) -> None:
        self.dicts = dicts
        self.rare_classes = rare_classes
        self.skip_unreadable = skip_unreadable
        self.mapper = mapper
        self.seed = seed
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def index(self, position: int, skip: int = 0) -> int:
        """Return the index of the image at `position`, or `skip` places later in the same epoch (wrapping around)."""
        epoch, place = divmod(position, len(self.dicts))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.dicts))
        return int(self._order[(place + skip) % len(self.dicts)])

    def sample(self, position: int, skip: int) -> dict[str, Any]:
        """Return the dict at `position`, or its replacement after `skip` unreadable images."""
        if self.rare_classes is None:
            return self.dicts[self.index(position, skip)]
        image, target_class = self.rare_classes.draw(np.random.default_rng((self.seed, 2, position, skip)))
        return {**self.dicts[image], "target_class": target_class}

    def __getitem__(self, position: int) -> dict[str, Any] | UserError:
        failures: list[UserError] = []
        for skip in range(len(self.dicts) if self.skip_unreadable else 1):
            rng = np.random.default_rng((self.seed, 1, position))
            try:
                return self.mapper(self.sample(position, skip), rng=rng)
            except UnreadableFile as error:
                failures.append(error)
                if self.skip_unreadable:
                    logger.warning("INPUT.SKIP_UNREADABLE: %s", error)
            except UserError as error:
                return error
        return failures[-1]


class ShardedDataset(Dataset):
    """One rank's contiguous share of a dataset, in order; shares differ by at most one image, without repeats."""

    def __init__(
        self,
        dicts: Sequence[dict[str, Any]],
        mapper: Callable[..., dict[str, Any]],
        *,
        rank: int,
        world_size: int,
    ) -> None:
        share = range(len(dicts) * rank // world_size, len(dicts) * (rank + 1) // world_size)
        self.dicts = SerializedDicts(dicts[i] for i in share)
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, index: int) -> dict[str, Any] | UserError:
        try:
            return self.mapper(self.dicts[index])
        except UserError as error:
            return error
