"""Perceptual hashes, and the search for the nearest one, compared with a loop over all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from semask_d2.data.near_duplicates import NEAR_BITS, NearHashes, perceptual_hash


def looks() -> Iterator[tuple[np.ndarray, int]]:
    rng = np.random.default_rng(0)
    for _ in range(3):
        gray = np.kron(rng.permutation(72).reshape(8, 9) * 3, np.ones((4, 4))).astype(np.uint8)
        cells = gray[::4, ::4].astype(int)
        bits = [cells[y, x + 1] > cells[y, x] for y in range(8) for x in range(8)]
        yield np.repeat(gray[:, :, None], 3, axis=2), int("".join(str(int(bit)) for bit in bits), 2)


def test_how_an_image_looks_is_which_cells_grow_brighter() -> None:
    for image, expected in looks():
        assert perceptual_hash(image) == expected


def flipped(value: int, bits: np.ndarray) -> int:
    return value ^ sum(1 << int(bit) for bit in bits)


def nearest_of_all(hashes: list[int], value: int) -> int | None:
    differing = [(value ^ other).bit_count() for other in hashes]
    return differing.index(min(differing)) if min(differing) <= NEAR_BITS else None


@pytest.mark.parametrize("spread", [64, 4])  # bits in which hashes differ; few ones make crowded bands and equal hashes
def test_the_nearest_hash_is_that_of_a_loop(spread: int) -> None:
    rng = np.random.default_rng(0)
    hashes = [int(x) & ((1 << spread) - 1) for x in rng.integers(0, 2**64, 300, np.uint64)]
    hashes += [flipped(value, rng.choice(64, 2, replace=False)) for value in hashes[:40]]
    search = NearHashes(hashes)
    values = [flipped(value, rng.choice(64, count, replace=False)) for count in range(7) for value in hashes[:20]]
    values += [0, 2**64 - 1]
    answers = [search.nearest(value) for value in values]
    assert answers == [nearest_of_all(hashes, value) for value in values]
    assert None in answers
    assert len(set(answers)) > 3


def test_a_single_hash() -> None:
    assert NearHashes([5]).nearest(4) == 0
    assert NearHashes([5]).nearest(2**63 + 2**40 + 2**20 + 4) is None
