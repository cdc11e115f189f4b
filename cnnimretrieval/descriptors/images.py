"""Photos from disk to pictures: upright, cropped, scaled by the published rule, with an optional edit.

No torch here: processes that read photos load this and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, floor, radians, sin
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from groundwork.orientation import upright_size
from groundwork.photos import Picture, UnusablePhoto, load_rgb, stored_shape

Box = tuple[float, float, float, float]
Edit = Callable[[Image.Image], Image.Image]

# JPEG decoding may stop at a half, quarter or eighth of the size as long as this many times the final size
# is left for Lanczos: the result hardly differs, and a 12-megapixel photo decodes twice as fast. Pillow's own
# thumbnail leaves 2.0; with a little less so are photos of most phones for 1,024 px (4,032 px / 2).
_DRAFT_MARGIN = 1.85
# To be raised when the same photo gives other pixels than before: it is in the key of whatever is kept of
# photos, which is made anew then.
PIXELS_VERSION = 2
_OUTSIDE = (124, 116, 104)  # ImageNet's mean colour, which normalises to about zero


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """A photo, or a part of it, that is to be described.

    `box` is (x1, y1, x2, y2) in pixels of the full upright photo, that is after applying its EXIF
    orientation; None is the whole. `rotation_deg` turns the content counter-clockwise about the centre of
    the box; what lies beyond the photo is filled with ImageNet's mean colour. `edit` is called last, on the
    picture at its final size. `as_photo` makes the content of the box a photo of its own, as somebody saves
    a detail: it is scaled as such, not by the factor of the photo it was cut from. `as_stored` leaves the
    EXIF orientation aside, in the box as in the picture.
    """

    path: Path
    box: Box | None = None
    rotation_deg: float = 0.0
    edit: Edit | None = None
    as_photo: bool = False
    as_stored: bool = False

    def __post_init__(self) -> None:
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(
                f"box of {self.path}: expected x1 < x2 and y1 < y2, got {self.box}; "
                "give the upper left corner first"
            )


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where a picture lies in its photo: its x, y, edges at whole px, are matrix @ (x, y) + corner there."""

    matrix: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    corner: tuple[float, float] = (0.0, 0.0)

    def to_photo(self, xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Positions in the picture, in px, as positions in the full upright photo."""
        moved: Float[np.ndarray, "n 2"] = xy @ np.array(self.matrix).T + self.corner
        return moved

    @property
    def px_per_px(self) -> float:
        """Pixels of the photo to one of the picture, the geometric mean of both axes."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix))))


# Of a picture that is its photo.
UNMOVED = Frame()


def _load(request: ImageRequest, longest_px: float | None) -> Picture:
    """The photo, maybe reduced while decoding, with pixels left for Lanczos; errors name the file."""
    path = request.path
    enough_px = None if longest_px is None else _DRAFT_MARGIN * longest_px
    try:
        return load_rgb(path, enough_px, as_stored=request.as_stored)
    except UnusablePhoto as finding:
        if not path.exists():
            raise FileNotFoundError(
                f"photo: expected a file, got {path}, which is none; check the path"
            ) from finding
        raise OSError(f"photo {path}: expected an image, got '{finding}'; replace or remove it") from finding


def crop(image: Image.Image, box: Box, rotation_deg: float = 0.0) -> Image.Image:
    """The part of `image` in `box`, its corners rounded to whole pixels (halves to even), as published.

    At least one pixel; what lies beyond the image is black without rotation, ImageNet's mean colour with it.
    `rotation_deg` turns the content counter-clockwise about the centre of the box before it is cut out.
    """
    x1, y1, x2, y2 = _whole_box(box)
    if rotation_deg == 0.0:
        return image.crop((x1, y1, x2, y2))
    # Pillow asks where each output pixel comes from: the output's centre maps to the centre of the box.
    (row_x, row_y), (offset_x, offset_y) = _turn(box, rotation_deg)
    return image.transform(
        (x2 - x1, y2 - y1),
        Image.Transform.AFFINE,
        (*row_x, offset_x, *row_y, offset_y),
        resample=Image.Resampling.BICUBIC,
        fillcolor=_OUTSIDE,
    )


def _whole_box(box: Box) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (round(value) for value in box)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _turn(
    box: Box, rotation_deg: float
) -> tuple[tuple[tuple[float, float], tuple[float, float]], tuple[float, float]]:
    """Matrix and offset from pixels of what `crop` gives to those of the image it was cut from."""
    x1, y1, x2, y2 = _whole_box(box)
    width, height = x2 - x1, y2 - y1
    cosine, sine = cos(radians(rotation_deg)), sin(radians(rotation_deg))
    offset_x = (x1 + x2) / 2 - (cosine * width - sine * height) / 2
    offset_y = (y1 + y2) / 2 - (sine * width + cosine * height) / 2
    return ((cosine, -sine), (sine, cosine)), (offset_x, offset_y)


def resize_longest(image: Image.Image, longest_px: int) -> Image.Image:
    """`image` with its longest side at most `longest_px`: Pillow's thumbnail, Lanczos; never enlarged."""
    resized = image.copy()
    resized.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    return resized


def open_request(request: ImageRequest, image_size: int) -> Image.Image:
    """The picture that `request` asks for, scaled as a photo with longest side `image_size` would be.

    A box is cut out first, then scaled by the factor of the full photo: its longest side becomes at most
    floor(image_size * max(box sides) / max(photo sides)), the published query rule, so that things look as
    large in a query as in the database; with `as_photo` at most `image_size`. OSError naming the file when
    it cannot be read, ValueError when the box lies outside.
    """
    return open_framed(request, image_size)[0]


def open_framed(request: ImageRequest, image_size: int) -> tuple[Image.Image, Frame]:
    """The picture of `open_request`, and where it lies in the photo."""
    photo = _load(request, _needed_px(request, image_size))
    image, size = photo.image, photo.full_size
    whole = (0.0, 0.0, float(size[0]), float(size[1]))
    if request.box is None and request.rotation_deg == 0.0:
        picture = resize_longest(image, image_size)
        frame = _frame(picture, image, size)
    else:
        box = _inside(request, size) if request.box is not None else whole
        sides = (round(box[2]) - round(box[0]), round(box[3]) - round(box[1]))
        share = 1.0 if request.as_photo else max(sides) / max(size)
        longest_px = max(1, floor(image_size * share))
        x1, x2 = (x * image.width / size[0] for x in box[::2])
        y1, y2 = (y * image.height / size[1] for y in box[1::2])
        picture = resize_longest(crop(image, (x1, y1, x2, y2), request.rotation_deg), longest_px)
        frame = _frame(picture, image, size, (x1, y1, x2, y2), request.rotation_deg)
    return (picture if request.edit is None else request.edit(picture)), frame


def _frame(
    picture: Image.Image,
    decoded: Image.Image,
    full_size: tuple[int, int],
    box: Box | None = None,
    rotation_deg: float = 0.0,
) -> Frame:
    """Where `picture` lies in the photo, cut out of its `decoded` form, which may be reduced, and scaled."""
    box = box or (0.0, 0.0, decoded.width, decoded.height)
    x1, y1, x2, y2 = _whole_box(box)
    matrix, offset = _turn(box, rotation_deg)
    from_picture = np.array([(x2 - x1) / picture.width, (y2 - y1) / picture.height])
    to_full = np.array(full_size) / decoded.size
    whole = to_full[:, None] * np.array(matrix) * from_picture
    corner = to_full * offset
    (a, b), (c, d) = whole.tolist()
    return Frame(matrix=((a, b), (c, d)), corner=(float(corner[0]), float(corner[1])))


def full_size(request: ImageRequest) -> tuple[int, int]:
    """Width and height in px of the whole photo of a request, from the head of its file.

    UnusablePhoto or OSError where it cannot be read.
    """
    width, height, orientation = stored_shape(request.path)
    return upright_size(width, height, 1 if request.as_stored else orientation)


def _needed_px(request: ImageRequest, image_size: int) -> float | None:
    """Longest side of the photo at which what is asked for has its final size; None where nobody can tell."""
    if request.box is None or not request.as_photo:
        return image_size
    try:
        size = full_size(request)
    except (UnusablePhoto, OSError):
        return None  # which `_load` explains
    x1, y1, x2, y2 = _inside(request, size)
    return image_size * max(size) / max(x2 - x1, y2 - y1)


def _inside(request: ImageRequest, full_size: tuple[int, int]) -> Box:
    """The part of the box on the photo; ValueError when not even a pixel of it is."""
    assert request.box is not None
    x1, y1, x2, y2 = request.box
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(full_size[0])), min(y2, float(full_size[1])))
    if round(clipped[2]) - round(clipped[0]) < 1 or round(clipped[3]) - round(clipped[1]) < 1:
        raise ValueError(
            f"box of {request.path}: expected at least a pixel of the {full_size[0]} x {full_size[1]} photo, "
            f"got {request.box}; give it in pixels of the full upright photo"
        )
    return clipped


def read_levels(request: ImageRequest, image_size: int) -> UInt8[np.ndarray, "3 h w"]:
    """The RGB levels, 0 to 255, of what `open_request` gives; OSError or ValueError as there."""
    return read_framed(request, image_size)[0]


def read_framed(request: ImageRequest, image_size: int) -> tuple[UInt8[np.ndarray, "3 h w"], Frame]:
    """The levels of `read_levels`, and where they lie in the photo."""
    picture, frame = open_framed(request, image_size)
    levels = np.asarray(picture.convert("RGB"), dtype=np.uint8)
    return levels.transpose(2, 0, 1).copy(), frame
