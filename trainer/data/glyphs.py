"""Generated 32 x 32 colour images of characters in the fonts that matplotlib ships: 10 classes, any number of records."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from trainer.data.dataset import Dataset, images

CHARACTERS = "ABEGHKMRSX"
SIDE = 32
COUNT = 50_000
HELD_OUT = 10_000
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "Mono", "Mono-Bold")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic")),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10", "cmb10"),
)


@lru_cache(maxsize=1024)
def _mask(font: str, size: int, character: str) -> np.ndarray:
    """The character in white on black, cut to its box, values in [0, 1]."""
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    mask = ImageFont.truetype(str(path), size).getmask(character, mode="L")
    return np.asarray(mask, dtype=np.float32).reshape(mask.size[::-1]) / 255.0


def _turned(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The character rotated, sheared and moved on a 32 x 32 field (bilinear)."""
    angle, shear = rng.uniform(-0.5, 0.5), rng.uniform(-0.25, 0.25)
    centre = SIDE / 2 - 0.5 + rng.uniform(-5.0, 5.0, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    down, right = rows - centre[0], columns - centre[1]
    right = right + shear * down
    source_row = np.cos(angle) * down - np.sin(angle) * right + mask.shape[0] / 2 - 0.5
    source_column = np.sin(angle) * down + np.cos(angle) * right + mask.shape[1] / 2 - 0.5
    padded = np.pad(mask, 1)
    r = np.clip(source_row + 1.0, 0, padded.shape[0] - 1.001)
    c = np.clip(source_column + 1.0, 0, padded.shape[1] - 1.001)
    i, j = r.astype(int), c.astype(int)
    u, v = r - i, c - j
    top = padded[i, j] * (1 - v) + padded[i, j + 1] * v
    bottom = padded[i + 1, j] * (1 - v) + padded[i + 1, j + 1] * v
    return top * (1 - u) + bottom * u


def _texture(rng: np.random.Generator, strength: float) -> np.ndarray:
    """Smooth colour noise: a coarse grid, enlarged, and a wave."""
    cells = int(rng.integers(2, 6))
    coarse = rng.normal(0.0, strength, (3, cells, cells))
    where = np.linspace(0, cells - 1, SIDE)
    low = np.minimum(where.astype(int), cells - 2)
    part = where - low
    rows = coarse[:, low] * (1 - part)[None, :, None] + coarse[:, low + 1] * part[None, :, None]
    made = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
    wave = np.sin(
        rng.uniform(0.2, 1.2) * np.arange(SIDE)[:, None] + rng.uniform(0.2, 1.2) * np.arange(SIDE) + rng.uniform(0, 6)
    )
    return made + rng.normal(0.0, strength / 2, (3, 1, 1)) * wave


def _one(label: int, rng: np.random.Generator) -> np.ndarray:
    ground, ink = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    while abs(ground - ink).sum() < 180:
        ground, ink = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    picture = ground[:, None, None] + _texture(rng, 25.0)
    for _ in range(int(rng.integers(0, 4))):  # clutter: thin bars
        row, column, slope = rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(0, np.pi)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        bar = abs((rows - row) * np.cos(slope) + (columns - column) * np.sin(slope)) < rng.uniform(0.3, 0.8)
        picture = np.where(bar, rng.uniform(0, 255, 3)[:, None, None], picture)
    font = FONTS[int(rng.integers(len(FONTS)))]
    glyph = _turned(_mask(font, int(rng.integers(16, 27)), CHARACTERS[label]), rng)
    picture = picture * (1 - glyph) + (ink[:, None, None] + _texture(rng, 12.0)) * glyph
    return np.clip(picture + rng.normal(0.0, 6.0, picture.shape), 0, 255).astype(np.uint8)


def glyphs(count: int = COUNT, held_out: int = HELD_OUT) -> Dataset:
    """`count` training and `held_out` held-out images; image number i is the same whatever the counts are."""
    made = {}
    for part, size in ((0, count), (1, held_out)):
        labels = np.arange(size) % len(CHARACTERS)
        pictures = [_one(int(label), np.random.default_rng([part, i])) for i, label in enumerate(labels)]
        made[part] = images(np.stack(pictures)), torch.tensor(labels, dtype=torch.int64)
    (x, y), (held_out_x, held_out_y) = made[0], made[1]
    return Dataset(name="glyphs", x=x, y=y, held_out_x=held_out_x, held_out_y=held_out_y, classes=len(CHARACTERS))
