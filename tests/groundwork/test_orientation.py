import numpy as np
import pytest
from PIL import Image, ImageOps

from groundwork.orientation import upright_size, upright_xy


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_pixel_lands_where_pillow_puts_it(orientation):
    width, height = 5, 3
    stored = np.arange(width * height, dtype=np.uint8).reshape(height, width)
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    assert upright_size(width, height, orientation) == (upright.shape[1], upright.shape[0])

    y, x = np.mgrid[:height, :width]
    centres = np.stack([x.ravel() + 0.5, y.ravel() + 0.5], axis=1)
    moved = upright_xy(centres, width, height, orientation)
    np.testing.assert_array_equal(moved % 1, 0.5)
    columns, rows = moved.astype(int).T
    np.testing.assert_array_equal(upright[rows, columns], stored.ravel())


def test_an_unknown_orientation_is_named():
    with pytest.raises(ValueError, match="orientation") as error:
        upright_size(4, 3, 9)
    assert str(error.value) == "orientation: expected an EXIF value of 1..8, got 9; read any other value as 1"
