"""Painting a procedural outdoor scene and its label map, for the images of the toy dataset.

The twelve classes come in six pairs of equal color, so color alone cannot distinguish them: sky and water (place),
grass and tree (shape, texture), road and building (place, texture), ball and box (shape), sand and hut (shape,
texture), stripes and checks (texture). Some scenes also contain rocks, which are not labeled.

All shapes are computed in integer arithmetic from PCG64's raw bits, a stream that NumPy keeps stable, so the labels are
the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

SIZE = 128  # pixels, both sides
IGNORE = 255
CLASSES = ("sky", "water", "grass", "tree", "road", "building", "ball", "box", "sand", "hut", "stripes", "checks")
SKY, WATER, GRASS, TREE, ROAD, BUILDING, BALL, BOX, SAND, HUT, STRIPES, CHECKS = range(len(CLASSES))
THINGS = (TREE, BUILDING, BALL, BOX, HUT, STRIPES, CHECKS)  # countable objects that stand on the ground

BLUE, GREEN, GRAY, RED, TAN = (112, 158, 200), (88, 130, 66), (128, 124, 122), (188, 66, 56), (198, 168, 118)
VIOLET, WHITE, STONE, BARK = (120, 64, 142), (226, 216, 222), (62, 54, 58), (78, 62, 48)

ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]
ONE = 1024  # fixed-point one of `Dice.field`

Array = np.ndarray  # (SIZE, SIZE), one value per pixel
Color = tuple[int, int, int]
Grain = tuple[int, int, int]  # arguments of `Dice.grain`
Brush = Iterator[Array]  # see "objects on the ground"


class Dice:
    """Random choices that depend only on the seed."""

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seed))

    def integer(self, low: int, high: int) -> int:
        """Return an integer in [low, high]."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def chance(self, percent: int) -> bool:
        return self.integer(0, 99) < percent

    def field(self, cell_height: int, cell_width: int) -> Array:
        """Return value noise (SIZE, SIZE): integers in [-ONE, ONE] in blobs of about one cell."""
        rows, columns = SIZE // cell_height + 2, SIZE // cell_width + 2
        raw = self._bits.random_raw(rows * columns).reshape(rows, columns)
        knots = (raw % (2 * ONE + 1)).astype(np.int64) - ONE
        top, down = np.divmod(ROWS, cell_height)
        left, right = np.divmod(COLUMNS, cell_width)
        upper = knots[top, left] * (cell_width - right) + knots[top, left + 1] * right
        lower = knots[top + 1, left] * (cell_width - right) + knots[top + 1, left + 1] * right
        return (upper * (cell_height - down) + lower * down) // (cell_height * cell_width)

    def grain(self, cell_height: int, cell_width: int, levels: int) -> Array:
        """Return value noise in gray levels, for colors."""
        return self.field(cell_height, cell_width) * (levels / ONE)


class Scene:
    """An image under construction."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.horizon = dice.integer(40, 60)
        self.light = 1 if dice.chance(50) else -1  # from the right or from the left
        self.colors = np.zeros((SIZE, SIZE, 3), np.float32)
        self.labels = np.full((SIZE, SIZE), GRASS, np.uint8)
        self.owners = np.zeros((SIZE, SIZE), np.int64)  # number of the visible object, from 1
        self.areas = [0]  # full area of each object; 0 for the ground, which may be hidden completely

    def fill(
        self, mask: Array, label: int, color: Color, *grains: Grain, relief: Array | float = 0, spread: int = 14
    ) -> None:
        """Paint `mask` in a color plus `relief` and grains; the brightness varies randomly by up to `spread`."""
        texture = np.asarray(sum((self.dice.grain(*grain) for grain in grains), relief))
        brightness = self.dice.integer(-spread, spread)
        shade = np.array([c + brightness + self.dice.integer(-6, 6) for c in color], np.float32)
        self.colors[mask] = shade + texture[mask, None]
        self.labels[mask] = label

    def fits(self, mask: Array) -> bool:
        """Return whether an object at `mask` leaves at least 60 % of every earlier object visible."""
        left = np.bincount(self.owners[~mask], minlength=len(self.areas))
        return bool((10 * left >= 6 * np.array(self.areas)).all())


def ellipse(center_y: int, center_x: int, radius_y: int, radius_x: int) -> Array:
    distance = (ROWS - center_y) ** 2 * radius_x**2 + (COLUMNS - center_x) ** 2 * radius_y**2
    return distance <= radius_y**2 * radius_x**2


def rectangle(bottom: int, center_x: int, height: int, width: int) -> Array:
    left = center_x - width // 2
    return (bottom >= ROWS) & (bottom - height < ROWS) & (left <= COLUMNS) & (left + width > COLUMNS)


# --- the ground, from the sky down ---


def paint_backdrop(scene: Scene) -> None:
    fade = 30 * (ROWS - scene.horizon / 2) / scene.horizon
    scene.fill(scene.horizon > ROWS, SKY, BLUE, (10, 30, 16), relief=fade, spread=20)
    scene.fill(scene.horizon <= ROWS, GRASS, GREEN, (24, 40, 12), (4, 1, 20))


def paint_sand(scene: Scene) -> None:
    """Paint a beach on one side of the ground, or on its near part."""
    dice, wave = scene.dice, scene.dice.field(16, 16) * 9 // ONE
    middle = (scene.horizon + SIZE) // 2
    if dice.chance(40):
        mask = ROWS + wave > dice.integer(middle - 8, middle + 12)
    else:
        edge, slope = dice.integer(48, 80), dice.integer(-8, 8)
        beyond = COLUMNS + wave - edge - (ROWS - middle) * slope // 10
        mask = (beyond > 0) if dice.chance(50) else (beyond < 0)
    scene.fill(mask & (scene.horizon + 3 <= ROWS), SAND, TAN, (20, 30, 12), (2, 3, 14))


def paint_water(scene: Scene) -> None:
    """Paint a lake on the ground, flattened by the perspective."""
    dice = scene.dice
    radius_y, radius_x = dice.integer(9, 16), dice.integer(28, 52)
    center_y, center_x = dice.integer(scene.horizon + radius_y + 7, SIZE - 6), dice.integer(8, SIZE - 8)
    mask = ellipse(center_y, center_x, radius_y, radius_x)
    mask |= ellipse(center_y + 4, center_x + dice.integer(-24, 24), radius_y - 2, radius_x * 2 // 3)
    scene.fill(mask & (scene.horizon + 4 < ROWS), WATER, BLUE, (2, 14, 22), (20, 40, 10), spread=20)


def paint_road(scene: Scene) -> None:
    """Paint a road from the near edge to the horizon, wider towards the viewer."""
    dice, depth, down = scene.dice, SIZE - scene.horizon, ROWS - scene.horizon
    far, near = dice.integer(20, 108), dice.integer(10, 118)
    far_width, near_width = dice.integer(12, 18), dice.integer(40, 64)
    across = np.abs(COLUMNS - (far + (near - far) * down // depth))
    width = far_width + (near_width - far_width) * down // depth
    dashes = (10 * across < width) & (down * 6 // depth % 2 == 0)
    scene.fill((down >= 0) & (2 * across <= width), ROAD, GRAY, (2, 2, 12), (30, 20, 10), relief=34 * dashes)


GROUND = ((paint_sand, 58), (paint_water, 66), (paint_road, 58))  # with the percentage of scenes that contain it


# --- objects on the ground ---
# Each function takes the foot (row, column) and the scale in percent (100 at the near edge). It first yields its mask,
# so that a place can be tried before anything is drawn, and paints when it is resumed.


def tree(scene: Scene, foot: int, x: int, percent: int) -> Brush:
    radius = max(9, scene.dice.integer(17, 23) * percent // 100)
    center = foot - radius * 3 // 2
    trunk = rectangle(foot, x, radius, max(4, radius // 3))
    crown = ellipse(center, x, radius * 4 // 5, radius * 4 // 5)
    for _ in range(7):
        dy, dx = (scene.dice.integer(-radius, radius) * 3 // 5 for _ in range(2))
        crown |= ellipse(center + dy, x + dx, radius // 2, radius // 2)
    yield trunk | crown
    scene.fill(trunk, TREE, BARK, (5, 2, 8))
    shade = scene.light * (COLUMNS - x) * 24 / radius - (ROWS - center) * 22 / radius
    scene.fill(crown, TREE, GREEN, (4, 4, 46), relief=shade)


def building(scene: Scene, foot: int, x: int, percent: int) -> Brush:
    dice = scene.dice
    width, height = dice.integer(34, 52) * percent // 100, dice.integer(48, 76) * percent // 100
    cell_y, cell_x = dice.integer(9, 12), dice.integer(8, 11)
    windows = ((foot - ROWS) % cell_y >= cell_y // 2) & ((COLUMNS - x) % cell_x >= cell_x // 2)
    yield (mask := rectangle(foot, x, height, max(20, width)))
    glass = -44 if dice.chance(60) else 40
    relief = glass * (windows - 0.25) + scene.light * (COLUMNS - x) * 20 / width
    scene.fill(mask, BUILDING, GRAY, (3, 6, 6), relief=relief)


def ball(scene: Scene, foot: int, x: int, percent: int) -> Brush:
    radius = max(7, scene.dice.integer(12, 16) * percent // 100)
    center = foot - radius
    yield (mask := ellipse(center, x, radius, radius))
    lit_y, lit_x = center - radius / 3, x + scene.light * radius / 3
    distance = ((ROWS - lit_y) ** 2 + (COLUMNS - lit_x) ** 2) / radius**2
    scene.fill(mask, BALL, RED, (3, 3, 4), relief=42 - 62 * distance)


def box(scene: Scene, foot: int, x: int, percent: int) -> Brush:
    side = max(14, scene.dice.integer(22, 28) * percent // 100)
    lid, left = side // 4, x - side // 2
    above, beyond = foot - side - ROWS, COLUMNS - left - side  # rows and columns beyond the front face, from 0
    top = (above >= 0) & (above < lid) & (left + above <= COLUMNS) & (left + side + above > COLUMNS)
    flank = (beyond >= 0) & (beyond < lid) & (foot - beyond >= ROWS) & (foot - side - beyond <= ROWS)
    yield (mask := rectangle(foot, x, side, side) | top | flank)
    relief = 38 * top + scene.light * 26 * (flank - 0.3) - 4 + (ROWS - foot + side // 2) * -14 / side
    scene.fill(mask, BOX, RED, (3, 3, 4), relief=relief)


def hut(scene: Scene, foot: int, x: int, percent: int) -> Brush:
    """Paint a wooden hut: planks under a pointed roof."""
    width = max(22, scene.dice.integer(32, 44) * percent // 100)
    height = width * 5 // 9
    above = foot - height - ROWS
    roof = (above >= 0) & (10 * np.abs(COLUMNS - x) <= 10 * (width // 2 + 2) - 11 * above)
    yield (mask := rectangle(foot, x, height, width) | roof)
    planks, thatch = np.where((COLUMNS - x) % 5 < 2, -30, 18), np.where(above % 5 < 2, -26, 22)
    scene.fill(mask, HUT, TAN, (2, 2, 5), relief=np.where(roof, thatch, planks))


def sign(scene: Scene, foot: int, x: int, percent: int, *, label: int) -> Brush:
    """Paint a board or a disc in two colors, in stripes of any direction or in checks."""
    dice = scene.dice
    width, height = (max(20, dice.integer(28, 38) * percent // 100) for _ in range(2))
    is_disc = dice.chance(35)
    mask = ellipse(foot - width // 2, x, width // 2, width // 2) if is_disc else rectangle(foot, x, height, width)
    cell, up = (4 if percent < 75 else 5), foot - ROWS
    down, across = up // cell % 2, (COLUMNS - x) // cell % 2
    diagonal = (up * (1 - 2 * dice.integer(0, 1)) + COLUMNS - x) // (cell + 1) % 2
    stripes = (down, across, diagonal)[dice.integer(0, 2)]
    yield mask
    pattern = (down ^ across) if label == CHECKS else stripes
    relief = dice.grain(4, 4, 5)
    for part, color in enumerate((VIOLET, WHITE)):
        scene.fill(mask & (pattern == part), label, color, relief=relief)


def rock(scene: Scene, foot: int, x: int, percent: int) -> Brush:
    """Paint a dark rock, which is not labeled."""
    radius = max(6, scene.dice.integer(8, 13) * percent // 100)
    yield (mask := ellipse(foot - radius // 2, x, radius * 2 // 3, radius) & (foot >= ROWS))
    scene.fill(mask, IGNORE, STONE, (4, 5, 22))


STANDING = (  # with the chance in percent for each of two possible copies
    (tree, 50), (building, 40), (ball, 48), (box, 48), (hut, 44),
    (partial(sign, label=STRIPES), 44), (partial(sign, label=CHECKS), 44), (rock, 16),
)  # fmt: skip


def place_objects(scene: Scene) -> None:
    """Place the scene's objects on the ground, far ones first, so that near ones hide parts of them."""
    dice, horizon = scene.dice, scene.horizon
    cast = [make for make, percent in STANDING for _ in range(2) if dice.chance(percent)]
    feet = sorted((dice.integer(horizon + 8, SIZE - 3), number) for number in range(len(cast)))
    for foot, number in feet:
        make = cast[number]
        if make is building:  # buildings are far away
            foot = min(foot, horizon + 24)
        percent = 55 + 45 * (foot - horizon) // (SIZE - horizon)
        for _ in range(12):
            x = dice.integer(8, SIZE - 9)
            brush = make(scene, foot, x, percent)
            mask = next(brush)
            if scene.fits(mask):
                reach = max(6, 16 * percent // 100)
                shadow = ellipse(foot, x - scene.light * reach // 2, max(2, reach // 4), reach)
                scene.colors[shadow & (horizon <= ROWS)] *= 0.62
                next(brush, None)
                scene.owners[mask] = len(scene.areas)
                scene.areas.append(int(np.count_nonzero(mask)))
                break


def develop(scene: Scene) -> Array:
    """Turn the scene into a photograph with uneven light, a color cast, a soft lens and noise."""
    dice = scene.dice
    gain = dice.integer(74, 120) / 100
    slope_x, slope_y = scene.light * dice.integer(0, 14) / 100, dice.integer(-10, 10) / 100
    light = gain * (1 + slope_x * (2 * COLUMNS / SIZE - 1) + slope_y * (2 * ROWS / SIZE - 1))
    cast = np.array([1 + dice.integer(-7, 7) / 100 for _ in range(3)])
    picture = np.clip(scene.colors, 0, 255) * light[..., None] * cast
    edged = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = (edged[:-2] + 6 * edged[1:-1] + edged[2:]) / 8
    blurred = (blurred[:, :-2] + 6 * blurred[:, 1:-1] + blurred[:, 2:]) / 8
    noise = np.stack([dice.grain(1, 1, 9) for _ in range(3)], axis=-1)
    return np.clip(blurred + noise, 0, 255).astype(np.uint8)


def paint_scene(*seed: int) -> tuple[Array, Array]:
    """Paint the scene of this seed: image (SIZE, SIZE, 3) uint8 RGB, labels (SIZE, SIZE) uint8, 255 = ignore."""
    image, labels, _ = paint_objects(*seed)
    return image, labels


def paint_objects(*seed: int) -> tuple[Array, Array, Array]:
    """Paint the scene of this seed: image and labels of `paint_scene`, and object numbers (SIZE, SIZE) int64.

    Objects are numbered from 1; the ground has the number 0.
    """
    scene = Scene(Dice(*seed))
    paint_backdrop(scene)
    for paint, percent in GROUND:
        if scene.dice.chance(percent):
            paint(scene)
    place_objects(scene)
    return develop(scene), scene.labels, scene.owners
