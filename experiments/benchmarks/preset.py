"""Our default settings against pycolmap's defaults: one place, one core.

Both reconstruct the first 30 photos of a folder, shrunk to 1,000 px, with every pair matched, in child
processes of one thread. pycolmap's defaults find up to 8,192 features from a doubled photo; ours find 2,048,
preview hopeless pairs, and adjust less often. Goals: at least 2.5 x quicker, and as many photos in the
largest model (one in thirty less is let pass: either side may lose a photo at the edge).
"""

import sys
from collections.abc import Sequence

from experiments.benchmarks.contenders import plain_colmap
from experiments.benchmarks.contenders.ours import in_child, ours
from experiments.benchmarks.material.sample import names_below, one_place
from experiments.benchmarks.measuring.measure import (
    Claim,
    conclude,
    median,
    print_table,
    print_times,
    take_turns,
)
from sfm.reconstruct import ReconstructConfig


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    given, photos = one_place(__doc__, words, side=1000, repeats=2)
    names, plain = names_below(photos), given.out / "plain"
    found = take_turns(
        {
            "pycolmap, its defaults": lambda: in_child(
                plain_colmap.reconstruct_by_default, photos, names, plain
            ),
            "ours, our defaults": lambda: ours(photos, given.out / "ours", ReconstructConfig(), workers=1),
        },
        given.repeats,
    )
    print_times(found)
    (theirs, our_registered), (their_seconds, our_seconds) = (
        [rounds[0][0].largest for rounds in found.values()],
        [median(rounds, given.kind) for rounds in found.values()],
    )
    print_table(
        ("contender", "photos", "in the largest model"),
        [(name, str(len(names)), str(rounds[0][0].largest)) for name, rounds in found.items()],
    )
    return conclude(
        [
            Claim(what="times quicker", measured=their_seconds / our_seconds, limit=2.5, at_least=True),
            Claim(
                what="photos in the largest model over pycolmap's",
                measured=our_registered / max(1, theirs),
                limit=29 / 30,
                at_least=True,
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
