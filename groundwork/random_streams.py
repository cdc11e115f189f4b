"""Random generators that are told apart by name: of one seed, no two streams ever give the same numbers."""

from typing import Literal

import numpy as np

Stream = Literal[
    "epoch",
    "whitening pairs",
    "whitening layers",
    "negatives of a place",
    "bootstrap",
    "crops of a photo",
    "local head",
]

# What is drawn hangs on these numbers: a new stream gets a new one, none is ever changed.
_KEYS = {
    "whitening pairs": 1,
    "whitening layers": 2,
    "negatives of a place": 3,
    "bootstrap": 4,
    "crops of a photo": 5,
    "local head": 6,
}


def random_stream(seed: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """The generator called `stream` of a `seed`; `numbers`, as of epochs, tell several of one name apart.

    All but epochs are children of the seed (`SeedSequence.spawn_key`). An epoch's generator begins with seed
    and number as one entropy, which meets no child of any seed: an entropy is padded to four words before a
    child's key follows.
    """
    if stream == "epoch":
        return np.random.default_rng((seed, *numbers))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_KEYS[stream], *numbers)))
