"""A drawing surface measured in metres: what facades, windows and ornaments are painted on."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from experiments.demo.masonry import Colour

Box = tuple[float, float, float, float]


def to_bytes(colour: Colour, tone: float = 1.0) -> tuple[int, int, int]:
    """8-bit colour; `tone` brightens (> 1) or darkens it."""
    red, green, blue = (int(np.clip(channel * tone, 0, 1) * 255) for channel in colour)
    return red, green, blue


@dataclass(frozen=True, eq=False)
class Sheet:
    """An RGBA picture of a plane, x to the right and y down, both in metres from its upper left corner."""

    image: Image.Image
    px_per_m: float

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        """A pen on the picture."""
        return ImageDraw.Draw(self.image)

    def px(self, box: Box) -> Box:
        """The box x0, y0, x1, y1 in texels, corners in order."""
        x0, y0, x1, y1 = (round(value * self.px_per_m) for value in box)
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)

    def rectangle(self, box: Box, colour: Colour, tone: float = 1.0) -> None:
        """A filled rectangle."""
        self.draw.rectangle(self.px(box), fill=to_bytes(colour, tone))

    def slab(self, box: Box, colour: Colour) -> None:
        """A moulding: lit above, in shadow below, with a dark line of dirt under it."""
        x0, y0, x1, y1 = box
        third = (y1 - y0) / 3
        self.rectangle((x0, y0, x1, y0 + third), colour, 1.15)
        self.rectangle((x0, y0 + third, x1, y1 - third), colour)
        self.rectangle((x0, y1 - third, x1, y1), colour, 0.7)
        self.rectangle((x0, y1, x1, y1 + 0.05), colour, 0.4)

    def paste(self, picture: Image.Image, box: Box) -> None:
        """The picture stretched over the box."""
        x0, y0, x1, y1 = (int(value) for value in self.px(box))
        size = max(1, x1 - x0), max(1, y1 - y0)
        scaled = picture.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
        self.image.paste(scaled, (x0, y0), scaled)

    def clear(self, outline: list[tuple[float, float]]) -> None:
        """Cut a polygon (metres) out: its texels turn transparent."""
        self.draw.polygon([(x * self.px_per_m, y * self.px_per_m) for x, y in outline], fill=(0, 0, 0, 0))

    def texels(self) -> UInt8[np.ndarray, "height width 4"]:
        """The picture as an array."""
        return np.asarray(self.image, dtype=np.uint8)


def sheet_of(albedo: Float[np.ndarray, "height width 3"], px_per_m: float) -> Sheet:
    """An opaque sheet that starts as this albedo in [0, 1]."""
    picture = Image.fromarray((np.clip(albedo, 0, 1) * 255).astype(np.uint8))
    return Sheet(image=picture.convert("RGBA"), px_per_m=px_per_m)
