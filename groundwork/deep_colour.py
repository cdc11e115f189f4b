"""Colours of 16 bits: Pillow shows the upper eight only, of which a photo of 12 bits uses four."""

from collections.abc import Callable

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from groundwork.levels import scaled

_OTHER_BYTE = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": "RGB;16B"}
_OTHER_BYTE |= {f"RGBA{name[3:]}": f"RGBA{other[3:]}" for name, other in _OTHER_BYTE.items()}
# Below this no pixel needs more than 14 of the 16 bits.
_NEARLY_EMPTY = 1 << 6


def decode(image: ImageFile, again: Callable[[], ImageFile]) -> None:
    """Decode `image`; colours that leave the upper bits empty are scaled as `levels.scaled` says.

    `again` opens the same file anew: the lower bytes come from a second reading, with the bytes swapped.
    """
    kinds = {_raw_mode(tile.args) for tile in image.tile}
    image.load()
    if not kinds or not kinds <= set(_OTHER_BYTE):
        return
    upper = np.asarray(image)
    if upper[..., :3].max() >= _NEARLY_EMPTY:
        return
    with again() as swapped:
        swapped.tile = [tile._replace(args=_with_other_byte(tile.args)) for tile in swapped.tile]
        lower = np.asarray(swapped)
    colours = upper[..., :3].astype(np.uint16) << 8 | lower[..., :3]
    image.paste(Image.fromarray(np.concatenate([scaled(colours), upper[..., 3:]], axis=2)))


def _raw_mode(args: object) -> str:
    """How the pixels lie in the file; formats write it as the first of several, or alone."""
    return str(args[0]) if isinstance(args, tuple) and args else str(args)


def _with_other_byte(args: str | tuple[object, ...] | None) -> str | tuple[object, ...]:
    other = _OTHER_BYTE[_raw_mode(args)]
    return (other, *args[1:]) if isinstance(args, tuple) else other
