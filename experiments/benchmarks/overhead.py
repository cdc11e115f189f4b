"""The whole stage against bare pycolmap calls: one place, the same options, one core.

Both get the same photos (the first N of a folder, shrunk to 1,600 px), find the same SIFT features, match
every pair and map incrementally with the same settings, each in a child process of one thread. Ours scans,
hashes, records and checks besides. Two contenders of ours: with the preview that tells hopeless pairs apart
(the default) and without it, which is the same work as pycolmap's. Goal: at most 10 % slower.
"""

import sys
from collections.abc import Mapping, Sequence

from experiments.benchmarks.contenders import plain_colmap
from experiments.benchmarks.contenders.ours import in_child, ours
from experiments.benchmarks.contenders.plain_colmap import Registered
from experiments.benchmarks.material.sample import names_below, one_place
from experiments.benchmarks.measuring.measure import (
    Claim,
    Took,
    conclude,
    median,
    print_table,
    print_times,
    take_turns,
)
from sfm.reconstruct import ReconstructConfig

_LIMIT = 1.10


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    given, photos = one_place(__doc__, words, side=1600, repeats=3)
    names = names_below(photos)
    config = ReconstructConfig()
    without_preview = config.model_copy(
        update={"matching": config.matching.model_copy(update={"preview_features": 0})}
    )

    found = take_turns(
        {
            "pycolmap": lambda: in_child(
                plain_colmap.reconstruct_like, photos, names, given.out / "plain", config
            ),
            "ours": lambda: ours(photos, given.out / "ours", config, workers=1),
            "ours, no preview": lambda: ours(photos, given.out / "ours", without_preview, workers=1),
        },
        given.repeats,
    )
    print_times(found)
    print_table(
        ("contender", "registered"), [(name, str(rounds[0][0].total)) for name, rounds in found.items()]
    )
    return conclude(_claims(found, given.kind))


def _claims(found: Mapping[str, Sequence[tuple[Registered, Took]]], kind: str) -> list[Claim]:
    plain = median(found["pycolmap"], kind)
    slower = [
        Claim(
            what=f"{name}: {kind} seconds over pycolmap's",
            measured=median(found[name], kind) / plain,
            limit=_LIMIT,
            at_least=False,
        )
        for name in ("ours", "ours, no preview")
    ]
    largest = {name: rounds[0][0].largest for name, rounds in found.items()}
    registered = Claim(
        what="photos in our largest model over pycolmap's",
        measured=largest["ours"] / max(1, largest["pycolmap"]),
        limit=0.97,
        at_least=True,
    )
    return [*slower, registered]


if __name__ == "__main__":
    sys.exit(main())
