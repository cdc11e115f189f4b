"""EXIF orientation: where a pixel of the stored photo lies in the upright one that a person sees."""

import numpy as np
from jaxtyping import Float
from PIL import Image

# Per EXIF orientation: x and y are swapped, then mirrored about the upright width, about the upright height.
_UPRIGHT_FROM_STORED = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The stored `image` as it was held; Pillow's own way of it also rewrites EXIF, which may fail."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height of the upright photo, in px."""
    swapped = _transform(orientation)[0]
    return (height, width) if swapped else (width, height)


def upright_xy(
    xy: Float[np.ndarray, "n 2"], width: int, height: int, orientation: int
) -> Float[np.ndarray, "n 2"]:
    """Positions in the upright photo, in px; `xy`, `width` and `height` are those of the stored one.

    Pixel edges are at whole numbers, so that a mirrored x becomes width - x.
    """
    swapped, mirror_x, mirror_y = _transform(orientation)
    upright_width, upright_height = upright_size(width, height, orientation)
    x, y = (xy[:, 1], xy[:, 0]) if swapped else (xy[:, 0], xy[:, 1])
    return np.stack([upright_width - x if mirror_x else x, upright_height - y if mirror_y else y], axis=1)


def back_to_stored(orientation: int) -> int:
    """The EXIF value that turns an upright photo back: its `upright_xy` undoes that of `orientation`."""
    _transform(orientation)
    return {6: 8, 8: 6}.get(orientation, orientation)


def _transform(orientation: int) -> tuple[bool, bool, bool]:
    try:
        return _UPRIGHT_FROM_STORED[orientation]
    except KeyError:
        raise ValueError(
            f"orientation: expected an EXIF value of 1..8, got {orientation}; read any other value as 1"
        ) from None
