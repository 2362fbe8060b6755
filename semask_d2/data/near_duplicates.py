"""Images that look alike, found by perceptual hashes, in a time that hardly grows with the number of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from semask_d2.data.picture import RGB

NEAR_BITS = 3  # of 64: the hashes of near duplicates differ by at most this many
BANDS = NEAR_BITS + 1  # of equal size: hashes that differ by NEAR_BITS agree in at least one of them


def perceptual_hash(pixels: np.ndarray) -> int:
    """Return 64 bits of an image (H, W, C): where, in a 9 x 8 gray copy, a pixel is brighter than its left neighbor."""
    if pixels.shape[2] == RGB:
        gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    else:
        gray = pixels.mean(2).round().astype(np.uint8)
    small = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA).astype(int)
    bits = small[:, 1:] > small[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class NearHashes:
    """Hashes of 64 bits, of which the nearest to another one is found without comparing it with all."""

    def __init__(self, hashes: Sequence[int]):
        distinct, self.places = np.unique(np.array(hashes, np.uint64), return_index=True)
        self.distinct = distinct[np.argsort(self.places)]  # the first of equal nearest ones is the answer
        self.places = np.sort(self.places)
        self.bands = self.distinct.view(np.uint16).reshape(-1, BANDS)
        self.orders = np.argsort(self.bands, axis=0, kind="stable")
        self.sorted_bands = np.take_along_axis(self.bands, self.orders, 0)

    def nearest(self, value: int) -> int | None:
        """Return the place of the hash that is nearest to `value`, the first such; None if all differ too much."""
        other = np.array([value], np.uint64)
        candidates = []
        for band, (key, values) in enumerate(zip(other.view(np.uint16), self.sorted_bands.T, strict=True)):
            start, stop = (np.searchsorted(values, key, side) for side in ("left", "right"))
            candidates.append(self.orders[start:stop, band])
        rows = np.unique(np.concatenate(candidates))
        if not len(rows):
            return None
        differing = np.unpackbits((self.distinct[rows] ^ other).view(np.uint8).reshape(-1, 8), axis=1).sum(1)
        best = int(differing.argmin())
        return int(self.places[rows[best]]) if differing[best] <= NEAR_BITS else None
