"""Why there is too little to mine: the cause that is known, told before a later stage names the usual one."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from pairs.image_pairs import Candidates
from pairs.positives import Selection
from pairs.reconstruction import Reconstruction

_REASONS_TOLD = 3


def require_positives(
    reconstruction: Reconstruction, candidates: Candidates, selection: Selection, *, one_place_will_do: bool
) -> None:
    """ValueError saying what is missing where there are no positives, or in one of several places only.

    Missing can be models, 3D points that photos share, or pairs within the limits.
    """
    if not len(selection.positives):
        raise ValueError(_why_none(reconstruction, candidates, selection))
    place = reconstruction.images["place"].to_numpy()
    reconstructed = len(np.unique(place[reconstruction.images["model"].to_numpy() >= 0]))
    with_positives = len(np.unique(place[selection.positives.query]))
    if with_positives < 2 <= reconstructed and not one_place_will_do:
        raise ValueError(
            f"mine: expected positives in at least 2 places, got them in {with_positives} of {reconstructed} "
            f"reconstructed ones{_list(selection.dropped)}; loosen these limits of [pairs], or set "
            "pairs.apart_per_query"
        )


def _why_none(reconstruction: Reconstruction, candidates: Candidates, selection: Selection) -> str:
    images, num_models = reconstruction.images, len(reconstruction.model_files)
    if not num_models:
        return (
            f"mine: expected a 3D model, got none of {len(images)} usable photos"
            f"{_list(Counter(map(str, images['reason'])))}; add photos that overlap more"
        )
    if not len(candidates):
        points = sum(model.num_points for _, model, _ in reconstruction.models())
        got = f"{points:,} that no two photos see" if points else "none"
        return (
            f"mine: expected 3D points that photos share, got {got} in {num_models} models; poses are not "
            "enough, reconstruct with points"
        )
    return (
        f"mine: expected positives, got none of {len(candidates):,} pairs that share points"
        f"{_list(selection.dropped)}; loosen these limits of [pairs]"
    )


def _list(reasons: Mapping[str, int]) -> str:
    """The most frequent reasons in brackets."""
    counted = sorted(((count, reason) for reason, count in reasons.items() if count), reverse=True)
    if not counted:
        return ""
    return f" ({', '.join(f'{count:,} x {reason}' for count, reason in counted[:_REASONS_TOLD])})"
