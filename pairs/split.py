"""Hold places out from training: whole places, chosen by seed, with their share of the images."""

import numpy as np
from jaxtyping import Int
from pydantic import Field

from groundwork.settings import Settings

# Random choices compared by their share of images. More gain little balance and make seeds agree more often.
_DRAWS = 64


class SplitConfig(Settings):
    """How much is held out."""

    val_share: float = Field(
        default=0.3, gt=0, lt=1, description="share of the places, and about that of their images"
    )


def choose_val_places(
    place: Int[np.ndarray, " n"],
    config: SplitConfig,
    rng: np.random.Generator,
    *,
    one_place_will_do: bool = False,
) -> Int[np.ndarray, " v"]:
    """The held-out places, ascending, given the place of each registered image of the places that have pairs.

    The number of places is val_share of all, rounded, with at least one on either side. Among seeded draws of
    that many, the one whose share of the images is nearest to val_share wins: a large place would otherwise
    empty the training set. ValueError with fewer than two places, unless one will do: then nothing is held
    out.
    """
    places, images = np.unique(place, return_counts=True)
    if len(places) == 1 and one_place_will_do:
        return np.empty(0, dtype=np.int64)
    if len(places) < 2:
        hint = ", or set pairs.apart_per_query" if len(places) == 1 else ""
        raise ValueError(
            f"split: expected at least 2 places with matching pairs, got {len(places)}; "
            f"add photos of other places, several of each{hint}"
        )
    num_val = min(max(1, round(config.val_share * len(places))), len(places) - 1)
    draws = [rng.permutation(len(places))[:num_val] for _ in range(_DRAWS)]
    shares = np.array([images[draw].sum() for draw in draws]) / images.sum()
    return np.sort(places[draws[int(np.abs(shares - config.val_share).argmin())]])
