"""The factors by which photos are scaled before they are described: which there may be."""

_LEAST, _MOST = 0.01, 4.0


def require_factors(scales: tuple[float, ...]) -> tuple[float, ...]:
    """`scales` as they are; ValueError for factors that leave nothing of a photo, or blow it up."""
    if not all(_LEAST <= scale <= _MOST for scale in scales):
        raise ValueError(
            f"scales: expected factors from {_LEAST:g} to {_MOST:g}, got {scales}; 1,0.7071,0.5 is common"
        )
    return scales
