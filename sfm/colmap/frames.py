"""From the photos that others used to the stored ones: another size, or turned upright as EXIF says.

COLMAP reads the stored pixels; other tools turn a photo first, and many shrink it. The sizes of the cameras
tell which, but for half turns, mirrored and square photos: these are taken for turned where others of the
same source show that it turned its photos, else for stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from groundwork.orientation import back_to_stored, upright_size, upright_xy

Size = tuple[int, int]

_IMPOSSIBLE = 17  # EQUIRECTANGULAR: its parameters are the size of the photo
_ONE_FOCAL_LENGTH = (0, 2, 3, 8, 9, 12, 14)
# Of COLMAP's camera models by number: pairs of parameters that turn with the photo, as the two parts of a
# tangential or prism distortion do; first that along x.
_VECTORS: Mapping[int, tuple[tuple[int, int], ...]] = {
    4: ((7, 6),),
    6: ((7, 6),),
    10: ((7, 6), (10, 11)),
    11: ((10, 11), (12, 14), (13, 15)),
}


@dataclass(frozen=True, slots=True)
class Reframe:
    """Maps a photo of `size` to the stored one: scaled to `scaled`, then turned as EXIF's `turn` says."""

    size: Size
    scaled: Size
    turn: int = 1

    @property
    def is_needed(self) -> bool:
        """Whether the two differ at all."""
        return self.size != self.scaled or self.turn != 1

    @property
    def turning(self) -> Float[np.ndarray, "2 2"]:
        """The turn as a matrix, stored from given; its determinant is -1 where it mirrors."""
        ends = upright_xy(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), *self.scaled, self.turn)
        turning: np.ndarray = (ends[1:] - ends[0]).T
        return turning

    @property
    def mirrors(self) -> bool:
        """Whether no rotation of a camera can do the same."""
        return self.turn in (2, 4, 5, 7)

    @property
    def scales(self) -> Float[np.ndarray, " 2"]:
        """Along x and y, before the turn."""
        return np.divide(self.scaled, self.size)

    def xy(self, given: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Positions in the stored photo."""
        return upright_xy(given * self.scales, *self.scaled, self.turn)

    def keypoints(self, given: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
        """Position, scale and orientation (radians) in the stored photo."""
        if not self.is_needed:
            return given
        axes = np.stack([np.cos(given[:, 3]), np.sin(given[:, 3])]) * self.scales[:, None]
        turned = self.turning @ axes
        found = [self.xy(given[:, :2]), given[:, 2] * self.scales.mean(), np.arctan2(turned[1], turned[0])]
        return np.column_stack(found).astype(given.dtype)

    def params(self, camera_model: int, given: Sequence[float]) -> list[float]:
        """Parameters of one of COLMAP's camera models, by its number, for the stored photo."""
        if not self.is_needed:
            return list(given)
        found = np.array(given, dtype=np.float64)
        if camera_model == _IMPOSSIBLE:
            return [float(side) for side in upright_size(*self.scaled, self.turn)]
        turning = self.turning
        first = 1 if camera_model in _ONE_FOCAL_LENGTH else 2
        focal = found[:2] * self.scales if first == 2 else found[[0, 0]] * self.scales.mean()
        found[:first] = (np.abs(turning) @ focal)[:first]
        found[first : first + 2] = self.xy(found[None, first : first + 2])[0]
        for pair in _VECTORS.get(camera_model, ()):
            found[list(pair)] = turning @ found[list(pair)]
        return [float(value) for value in found]


@dataclass(frozen=True, kw_only=True)
class Photo:
    """Size of the stored photo and its EXIF orientation."""

    size: Size
    orientation: int


@dataclass(frozen=True, kw_only=True)
class Frames:
    """How each image comes into the frame of its photo; `assumed` counts those whose sizes do not tell."""

    of_image: Mapping[str, Reframe]
    assumed: int

    def tell(self) -> str:
        """What was done, in words; nothing for photos that are the same."""
        frames = self.of_image.values()
        facts = {
            "photos of another size in it": sum(frame.size != frame.scaled for frame in frames),
            "photos turned upright in it": sum(frame.turn != 1 for frame in frames),
            "photos that EXIF mirrors or turns, taken for stored as their sizes do not tell": self.assumed,
        }
        return ", ".join(f"{count} {what}" for what, count in facts.items() if count)


def frames_of(sizes: Mapping[str, Size], photos: Mapping[str, Photo]) -> Frames:
    """How the images with cameras of these `sizes` become those of `photos`.

    A pixel of rounding is allowed for. ValueError naming the first image whose camera has another shape than
    its photo.
    """
    turned: dict[str, bool | None] = {}
    for name, size in sizes.items():
        photo = photos[name]
        as_stored = _misfit(size, photo.size)
        as_upright = _misfit(size, upright_size(*photo.size, photo.orientation))
        if min(as_stored, as_upright) > 1:
            raise ValueError(
                f"image '{name}': expected a camera of the shape of its photo, {_shown(photo.size)}, got one "
                f"of {_shown(size)}; give the photos that it was made of"
            )
        known = photo.orientation == 1 or as_stored != as_upright
        turned[name] = photo.orientation != 1 and as_upright < as_stored if known else None
    rotating = {name: value for name, value in turned.items() if photos[name].orientation != 1}
    source_turns = True in rotating.values() and False not in rotating.values()
    unknown = [name for name, value in rotating.items() if value is None]
    assumed = 0 if {True, False} & set(rotating.values()) else len(unknown)
    turned |= dict.fromkeys(unknown, source_turns)
    of_image = {name: _reframe(size, photos[name], bool(turned[name])) for name, size in sizes.items()}
    return Frames(of_image=of_image, assumed=assumed)


def _reframe(size: Size, photo: Photo, turned: bool) -> Reframe:
    if not turned:
        return Reframe(size=size, scaled=photo.size)
    upright = upright_size(*photo.size, photo.orientation)
    return Reframe(size=size, scaled=upright, turn=back_to_stored(photo.orientation))


def _shown(size: Size) -> str:
    return f"{size[0]} x {size[1]} px"


def _misfit(one: Size, two: Size) -> float:
    """How far two sizes are from one shape; up to 1 when a pixel of rounding of the smaller explains it."""
    if min(one) <= 0:
        return np.inf
    small, large = sorted((one, two))
    difference = abs(small[0] / large[0] - small[1] / large[1])
    return difference / (1 / large[0] + 1 / large[1])
