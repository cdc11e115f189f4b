"""Hold whole places out from training, drawn by seed: those to report of, and those to choose by."""

import numpy as np
from jaxtyping import Int
from pydantic import Field

from groundwork.settings import Settings

# Random choices compared by their share of images. More gain little balance and make seeds agree more often.
_DRAWS = 64
# To choose by, and to train on where some are set aside to choose by.
_LEAST_PLACES = 2


class SplitConfig(Settings):
    """How much is held out."""

    val_share: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="share of the places, and about that of their images, that scores are reported of; "
        "of the photos without a place, too",
    )
    choosing_share: float = Field(
        default=0.15, ge=0, lt=1, description="share of the places that choices are made on, not reported"
    )


def choose_val_places(
    place: Int[np.ndarray, " n"],
    config: SplitConfig,
    rng: np.random.Generator,
    *,
    one_place_will_do: bool = False,
) -> Int[np.ndarray, " v"]:
    """The places to report of, ascending, given the place of each registered image of those with pairs.

    The number of places is val_share of all, rounded, with at least one on either side. Among seeded draws of
    that many, the one whose share of the images is nearest to val_share wins: a large place would otherwise
    empty the training set. ValueError with fewer than two places, unless one will do: then nothing is held
    out.
    """
    num_places = len(np.unique(place))
    if num_places == 1 and one_place_will_do:
        return np.empty(0, dtype=np.int64)
    if num_places < 2:
        hint = ", or set pairs.apart_per_query" if num_places == 1 else ""
        raise ValueError(
            f"split: expected at least 2 places with matching pairs, got {num_places}; "
            f"add photos of other places, several of each{hint}"
        )
    num_val = min(max(1, round(config.val_share * num_places)), num_places - 1)
    return _drawn(place, num_val, config.val_share, rng)


def choose_choosing_places(
    place: Int[np.ndarray, " n"],
    reported: Int[np.ndarray, " v"],
    config: SplitConfig,
    rng: np.random.Generator,
) -> Int[np.ndarray, " c"]:
    """The places to choose by, ascending, among those not `reported`; as many as choosing_share of all.

    None where that is less than two, or would leave less than two to train on: choices by a single place are
    left to chance.
    """
    others = place[~np.isin(place, reported)]
    wanted = round(config.choosing_share * len(np.unique(place)))
    if min(wanted, len(np.unique(others)) - wanted) < _LEAST_PLACES:
        return np.empty(0, dtype=np.int64)
    share = config.choosing_share * len(place) / len(others)
    return _drawn(others, wanted, share, rng)


def _drawn(
    place: Int[np.ndarray, " n"], count: int, share: float, rng: np.random.Generator
) -> Int[np.ndarray, " d"]:
    """So many places, with about this share of the images."""
    places, images = np.unique(place, return_counts=True)
    draws = [rng.permutation(len(places))[:count] for _ in range(_DRAWS)]
    shares = np.array([images[draw].sum() for draw in draws]) / images.sum()
    return np.sort(places[draws[int(np.abs(shares - share).argmin())]])
