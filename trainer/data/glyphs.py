"""Generated 32 x 32 colour images of characters in the fonts that matplotlib ships: 10 classes, any
number of records.

Hard on purpose: place, angle, size, font, colours (dark on light and light on dark), texture and
clutter are all random. Measured by `tests/bench/glyphs.py`.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.data.dataset import Dataset, images

CHARACTERS = "ABEGHKMRSX"
IMAGE_SIDE = 32
COUNT = 50_000
HELD_OUT = 10_000
# Images drawn at a time, from one generator: image number i is the same whatever the count is.
IMAGES_PER_BLOCK = 250
FIELD = 48  # side of the square a character is drawn on before it is turned
MOST_TEXTURE_CELLS = 5  # texture: random colours on a grid of at most so many rows and columns
CONTRAST = 180.0  # smallest sum of the distances of ink and ground over the three colours
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "Mono", "Mono-Bold")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic")),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10", "cmb10"),
)


@cache
def _character(font: str, size: int, character: str) -> np.ndarray:
    """The character in the middle of a square, values in [0, 1]."""
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    mask = ImageFont.truetype(str(path), size).getmask(character, mode="L")
    width, height = mask.size
    square = np.zeros((FIELD, FIELD), np.float32)
    down, right = (FIELD - height) // 2, (FIELD - width) // 2
    square[down : down + height, right : right + width] = (
        np.asarray(mask, np.float32).reshape(height, width) / 255
    )
    return square


def _characters(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One character per label, [B, 32, 32]: font and size at random, sheared, turned and moved
    (bilinear)."""
    count = len(labels)
    fonts, sizes = rng.integers(len(FONTS), size=count), rng.integers(16, 27, count)
    drawn = zip(fonts, sizes, labels, strict=True)
    squares = np.stack(
        [_character(FONTS[font], int(size), CHARACTERS[label]) for font, size, label in drawn]
    )
    angle, shear = rng.uniform(-0.5, 0.5, (count, 1, 1)), rng.uniform(-0.25, 0.25, (count, 1, 1))
    centre = IMAGE_SIDE / 2 - 0.5 + rng.uniform(-5.0, 5.0, (2, count, 1, 1))
    down, right = np.arange(IMAGE_SIDE)[:, None] - centre[0], np.arange(IMAGE_SIDE) - centre[1]
    right = right + shear * down
    row = np.clip(np.cos(angle) * down - np.sin(angle) * right + FIELD / 2 - 0.5, 0, FIELD - 1.001)
    column = np.clip(
        np.sin(angle) * down + np.cos(angle) * right + FIELD / 2 - 0.5, 0, FIELD - 1.001
    )
    i, j, which = row.astype(int), column.astype(int), np.arange(count)[:, None, None]
    u, v = row - i, column - j
    top = squares[which, i, j] * (1 - v) + squares[which, i, j + 1] * v
    return (
        top * (1 - u) + (squares[which, i + 1, j] * (1 - v) + squares[which, i + 1, j + 1] * v) * u
    )


def _texture(count: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth colour noise, [B, 3, 32, 32]: a coarse grid of colours, enlarged, and a wave."""
    last_cell = rng.integers(1, MOST_TEXTURE_CELLS, (count, 1, 1))
    where = np.linspace(0.0, 1.0, IMAGE_SIDE)[:, None] * last_cell
    enlarge = np.maximum(1.0 - abs(where - np.arange(MOST_TEXTURE_CELLS)), 0.0)[:, None]
    coarse = rng.normal(0.0, strength, (count, 3, MOST_TEXTURE_CELLS, MOST_TEXTURE_CELLS))
    across, along, phase = (
        rng.uniform(low, high, (count, 1, 1)) for low, high in ((0.2, 1.2), (0.2, 1.2), (0, 6))
    )
    places = np.arange(IMAGE_SIDE)
    wave = np.sin(across * places[:, None] + along * places + phase)[:, None]
    return (
        enlarge @ coarse @ enlarge.swapaxes(2, 3)
        + rng.normal(0.0, strength / 2, (count, 3, 1, 1)) * wave
    )


def _bars(count: int, rng: np.random.Generator) -> np.ndarray:
    """Where a thin line lies, [B, 1, 32, 32]."""
    row, column = rng.uniform(0, IMAGE_SIDE, (2, count, 1, 1))
    slope, width = rng.uniform(0, np.pi, (count, 1, 1)), rng.uniform(0.3, 0.8, (count, 1, 1))
    down, right = np.arange(IMAGE_SIDE)[:, None] - row, np.arange(IMAGE_SIDE) - column
    across = down * np.cos(slope) + right * np.sin(slope)
    return (abs(across) < width)[:, None]


def _colours(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ground and ink, [B, 3, 1, 1] each, that differ enough to be told apart."""
    drawn = rng.uniform(0, 255, (2, count, 3, 1, 1))
    while len(close := np.flatnonzero(abs(drawn[0] - drawn[1]).sum((1, 2, 3)) < CONTRAST)):
        drawn[:, close] = rng.uniform(0, 255, (2, len(close), 3, 1, 1))
    return drawn[0], drawn[1]


def _block(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One image per label, bytes."""
    count = len(labels)
    ground, ink = _colours(count, rng)
    picture = ground + _texture(count, 25.0, rng)
    bars = rng.integers(0, 4, (count, 1, 1, 1))
    for number in range(3):
        picture = np.where(
            _bars(count, rng) & (number < bars), rng.uniform(0, 255, (count, 3, 1, 1)), picture
        )
    glyph = _characters(labels, rng)[:, None]
    picture = picture * (1 - glyph) + (ink + _texture(count, 12.0, rng)) * glyph
    return np.clip(picture + 6.0 * rng.standard_normal(picture.shape, np.float32), 0, 255).astype(
        np.uint8
    )


def glyphs(
    count: int = COUNT,
    held_out: int = HELD_OUT,
    show: Callable[[int, int], None] = lambda done, whole: None,
) -> Dataset:
    """`count` training and `held_out` held-out images; image number i is the same whatever the
    counts are. `show(images made, images in all)` is called now and then."""
    parts: list[tuple[Tensor, Tensor]] = []
    for part, size in enumerate((count, held_out)):
        labels, blocks = np.arange(IMAGES_PER_BLOCK) % len(CHARACTERS), []
        for number in range(-(-size // IMAGES_PER_BLOCK)):
            blocks.append(_block(labels, np.random.default_rng([part, number])))
            show(part * count + min(size, (number + 1) * IMAGES_PER_BLOCK), count + held_out)
        parts.append((images(np.concatenate(blocks)[:size]), torch.arange(size) % len(CHARACTERS)))
    (x, y), (held_out_x, held_out_y) = parts
    return Dataset(
        name="glyphs",
        x=x,
        y=y,
        held_out_x=held_out_x,
        held_out_y=held_out_y,
        classes=len(CHARACTERS),
    )
