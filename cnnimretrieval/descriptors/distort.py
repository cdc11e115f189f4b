"""What happens to a photo between the camera and a search box: other light, colour and compression."""

import io
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from PIL import Image
from pydantic import Field, model_validator

from groundwork.settings import Settings


class RelightConfig(Settings):
    """How far light, colour and compression go; each is drawn uniformly, factors on a log scale."""

    exposure: float = Field(default=1.5, ge=1, description="factor on linear-ish levels, or its inverse")
    gamma: float = Field(default=1.4, ge=1, description="exponent of the tone curve, or its inverse")
    contrast: float = Field(default=1.3, ge=1, description="factor about the mean level, or its inverse")
    saturation: float = Field(default=1.8, ge=1, description="factor about grey, or its inverse")
    tint: float = Field(default=1.12, ge=1, description="factor on each colour channel, or its inverse")
    min_jpeg_quality: int = Field(default=45, ge=1, le=95)
    max_jpeg_quality: int = Field(default=90, ge=1, le=95)

    @model_validator(mode="after")
    def _qualities_in_order(self) -> "RelightConfig":
        if self.min_jpeg_quality > self.max_jpeg_quality:
            raise ValueError(
                f"relight: expected min_jpeg_quality <= max_jpeg_quality, got {self.min_jpeg_quality} and "
                f"{self.max_jpeg_quality}; swap them"
            )
        return self


@dataclass(frozen=True)
class Relit:
    """Edit of a picture: relit, then saved as JPEG and read again; the same seed does the same each time."""

    seed: int
    config: RelightConfig = field(default_factory=RelightConfig)

    def __call__(self, image: Image.Image) -> Image.Image:
        """The changed picture, RGB, of the same size."""
        rng = np.random.default_rng(self.seed)
        levels = relight(np.asarray(image.convert("RGB"), np.float32) / 255.0, rng, self.config)
        quality = int(rng.integers(self.config.min_jpeg_quality, self.config.max_jpeg_quality + 1))
        return recompress(Image.fromarray(np.rint(levels * 255.0).astype(np.uint8)), quality)


def relight(
    levels: Float[np.ndarray, "h w 3"], rng: np.random.Generator, config: RelightConfig
) -> Float[np.ndarray, "h w 3"]:
    """RGB in [0, 1] under another light: exposure and gamma, then contrast, saturation, tint; clipped."""

    def factor(most: float, size: int | None = None) -> Float[np.ndarray, "..."]:
        return np.asarray(most ** rng.uniform(-1.0, 1.0, size), np.float32)

    lit = np.clip(levels * factor(config.exposure), 0.0, 1.0) ** factor(config.gamma)
    lit = lit.mean() + factor(config.contrast) * (lit - lit.mean())
    grey = lit.mean(axis=2, keepdims=True)
    lit = grey + factor(config.saturation) * (lit - grey)
    changed: Float[np.ndarray, "h w 3"] = np.clip(lit * factor(config.tint, 3), 0.0, 1.0)
    return changed


def recompress(image: Image.Image, quality: int) -> Image.Image:
    """`image` after a round trip through JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
