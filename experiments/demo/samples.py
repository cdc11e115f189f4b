"""The surface points that are shaded for a photo: one a pixel, several where a pixel sees an edge."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from experiments.demo.raster import NOTHING, Coverage


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Surface points, each part of one pixel.

    Attributes:
        pixel: row-major index of the photo's pixel.
        weight: share of the pixel, in (0, 1]; shares that are missing from 1 are sky.
        quad: row in the scene's quads.
        s: position along the quad.
        t: position down the quad.
        quad_share: area of the quad that the sample stands for; the quad's own is 1.

    """

    pixel: Int[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]
    quad: Int[np.ndarray, " n"]
    s: Float[np.ndarray, " n"]
    t: Float[np.ndarray, " n"]
    quad_share: Float[np.ndarray, " n"]


def pixel_samples(coverage: Coverage, factor: int) -> Samples:
    """Samples of pixels made of factor x factor rays.

    Rays that all meet one quad are shaded once, in their middle, for textures are filtered anyway; that is
    most pixels. The others keep all of their rays.
    """
    height, width = (side // factor for side in coverage.quad.shape)

    def rays(values: np.ndarray) -> np.ndarray:
        blocks = values.reshape(height, factor, width, factor).transpose(1, 3, 0, 2)
        return blocks.reshape(factor * factor, height * width)

    quad, s, t, nearness = (rays(v) for v in (coverage.quad, coverage.s, coverage.t, coverage.nearness))
    alike = (quad == quad[0]).all(axis=0)
    inner = np.flatnonzero(alike & (quad[0] != NOTHING))
    ray, edge = np.nonzero(~alike & (quad != NOTHING))
    footprints = coverage.footprints.astype(np.float32)
    inner_share = factor**2 * footprints[quad[0, inner]] / nearness[:, inner].mean(axis=0) ** 3
    edge_share = footprints[quad[ray, edge]] / nearness[ray, edge] ** 3
    return Samples(
        pixel=np.concatenate([inner, edge]),
        weight=np.concatenate([np.ones(len(inner)), np.full(len(edge), 1 / factor**2)]).astype(np.float32),
        quad=np.concatenate([quad[0, inner], quad[ray, edge]]).astype(np.int32),
        s=np.concatenate([s[:, inner].mean(axis=0), s[ray, edge]]),
        t=np.concatenate([t[:, inner].mean(axis=0), t[ray, edge]]),
        quad_share=np.concatenate([inner_share, edge_share]),
    )


def splat(
    samples: Samples, colours: Float[np.ndarray, "n 3"], height: int, width: int
) -> tuple[Float[np.ndarray, "height width 3"], Float[np.ndarray, "height width 1"]]:
    """The weighted colours added up in their pixels, and the share of each pixel that is sky."""
    channels = [np.bincount(samples.pixel, samples.weight * colours[:, k], height * width) for k in range(3)]
    covered = np.bincount(samples.pixel, samples.weight, height * width)
    picture = np.stack(channels, axis=1).reshape(height, width, 3).astype(np.float32)
    return picture, (1 - covered).reshape(height, width, 1).astype(np.float32)
