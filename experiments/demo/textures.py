"""Texture lookup without aliasing: all textures of a scene, each at halved sizes, in one flat array."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from experiments.demo.samples import Samples
from experiments.demo.scene import Scene

_LEVELS = 7


@dataclass(frozen=True, eq=False)
class Atlas:
    """Pyramids of all textures of a place; scenes that only append textures can share its start.

    Attributes:
        texels: RGBA of every level of every texture, one after another.
        offsets: where a level starts in `texels`.
        sizes: width, height of a level.

    """

    texels: UInt8[np.ndarray, "texels 4"]
    offsets: Int[np.ndarray, "textures levels"]
    sizes: Int[np.ndarray, "textures levels 2"]


def build_atlas(
    textures: tuple[UInt8[np.ndarray, "height width 4"], ...], start: Atlas | None = None
) -> Atlas:
    """The atlas of these textures; `start` is one of their first textures, taken over as it is."""
    done = 0 if start is None else len(start.offsets)
    parts = [] if start is None else [start.texels]
    offset = 0 if start is None else len(start.texels)
    offsets, sizes = [], []
    for texture in textures[done:]:
        level = texture
        for _ in range(_LEVELS):
            parts.append(level.reshape(-1, 4))
            offsets.append(offset)
            sizes.append((level.shape[1], level.shape[0]))
            offset += parts[-1].shape[0]
            level = _halved(level)
    new_offsets = np.array(offsets, dtype=np.int64).reshape(-1, _LEVELS)
    new_sizes = np.array(sizes, dtype=np.int64).reshape(-1, _LEVELS, 2)
    if start is not None:
        new_offsets = np.concatenate([start.offsets, new_offsets])
        new_sizes = np.concatenate([start.sizes, new_sizes])
    return Atlas(np.concatenate(parts), new_offsets, new_sizes)


def _halved(level: UInt8[np.ndarray, "height width 4"]) -> UInt8[np.ndarray, "h w 4"]:
    """Means of 2 x 2 texels; a side of one texel stays."""
    height, width = level.shape[:2]
    rows, columns = (2 if height > 1 else 1), (2 if width > 1 else 1)
    cut = level[: height // rows * rows, : width // columns * columns].astype(np.uint16)
    summed = sum(cut[r::rows, c::columns] for r in range(rows) for c in range(columns))
    # Rounded: seven levels that each round down would darken what is far away.
    return np.asarray((summed + rows * columns // 2) // (rows * columns), dtype=np.uint8)


def look_up(scene: Scene, atlas: Atlas, samples: Samples) -> Float[np.ndarray, "n 3"]:
    """Albedo in [0, 1] of the samples: bilinear in the level whose texels are about as large as a sample."""
    rects = np.array([quad.rect for quad in scene.quads], dtype=np.float32)
    texture_of = np.array([quad.texture for quad in scene.quads], dtype=np.int32)
    extents = rects[:, 2:] - rects[:, :2]
    texels = (extents[:, 0] * extents[:, 1])[samples.quad] * samples.quad_share
    level = np.clip(0.5 * np.log2(np.maximum(texels, 1e-9)) + 0.3, 0, _LEVELS - 1).astype(np.int32)
    slot = texture_of[samples.quad] * _LEVELS + level
    shrink = np.float32(0.5) ** level
    x = (rects[:, 0][samples.quad] + samples.s * extents[:, 0][samples.quad]) * shrink - np.float32(0.5)
    y = (rects[:, 1][samples.quad] + samples.t * extents[:, 1][samples.quad]) * shrink - np.float32(0.5)
    return _bilinear(atlas, slot, x, y)


def _bilinear(
    atlas: Atlas, slot: Int[np.ndarray, " n"], x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 3"]:
    widths = atlas.sizes[..., 0].ravel().astype(np.int32)[slot]
    heights = atlas.sizes[..., 1].ravel().astype(np.int32)[slot]
    starts = atlas.offsets.ravel().astype(np.int32)[slot]
    x, y = np.clip(x, 0, widths - 1), np.clip(y, 0, heights - 1)
    column, row = x.astype(np.int32), y.astype(np.int32)
    fx, fy = (x - column)[:, None], (y - row)[:, None]
    right = np.minimum(column + 1, widths - 1)
    upper, lower = starts + row * widths, starts + np.minimum(row + 1, heights - 1) * widths
    packed = atlas.texels.view(np.uint32).ravel()

    def tap(index: np.ndarray) -> np.ndarray:
        texels: np.ndarray = packed[index].view(np.uint8).reshape(-1, 4)[:, :3]
        return texels.astype(np.float32)

    above = tap(upper + column) * (1 - fx) + tap(upper + right) * fx
    below = tap(lower + column) * (1 - fx) + tap(lower + right) * fx
    colours: np.ndarray = (above * (1 - fy) + below * fy) / np.float32(255)
    return colours
