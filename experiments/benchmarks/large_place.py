"""Proving on one place of 1,000 and of 10,000 photos, all of which show the same: time and memory by size.

Queries are drawn of up to 50 photos of a place, so the work may grow with the size of a place, but not with
its square, as it would if every photo were asked or every query kept a ranking and the names of its junk.
Descriptors are made up, unit rows around one direction for the place and around others for as many
distractors. Both sizes are proved in child processes of one thread. Goals: ten times the photos take at most
twelve times the processor time, and at most twelve times the memory that proving adds to its process.
"""

import sys
from collections.abc import Sequence

from experiments.benchmarks.contenders.ours import in_child
from experiments.benchmarks.material.made_up_place import prove_place
from experiments.benchmarks.measuring.measure import Claim, arguments, conclude, print_table

_GROWTH = 1.2


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--photos", type=int, default=1_000, help="of the small place [%(default)s]")
    parser.add_argument("--times", type=int, default=10, help="as many in the large one [%(default)s]")
    given = parser.parse_args(words)
    sizes = (given.photos, given.photos * given.times)
    took = {size: in_child(prove_place, size) for size in sizes}
    rows = [(f"{size:,}", f"{cpu:.2f}", f"{peak / 1e6:.0f}") for size, (cpu, peak) in took.items()]
    print_table(("photos of the place", "cpu s", "MB"), rows)
    small, large = (took[size] for size in sizes)
    return conclude(
        [
            Claim(
                what=f"{what}, {sizes[1]:,} over {sizes[0]:,} photos",
                measured=large[which] / small[which],
                limit=given.times * _GROWTH,
                at_least=False,
            )
            for which, what in enumerate(("processor seconds", "memory"))
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
