"""What re-ranking by geometry adds on the held-out queries of a finished run, by SIFT and by its network.

Crops, and crops retaken by another camera, are searched in the whole collection, or among the photos that the
network was not fitted to. Each setting is a list of --rerank steps. Means are over places, of means over a
place's queries; `finished` says who judges.
"""

import sys
from collections.abc import Mapping, Sequence

from experiments.benchmarks.material.finished import finished, search_arguments
from experiments.benchmarks.material.reranked import Sources, rerank
from experiments.benchmarks.measuring.measure import Claim, conclude
from experiments.commands import listing

_SETTINGS = ("spatial:features=sift", "spatial:features=local")
_KINDS = ("crop", "retaken")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = search_arguments(__doc__)
    parser.add_argument("--workers", type=int, default=1, help="processes [%(default)s]")
    parser.add_argument("--setting", action="append", help="steps, separated by spaces; may be given again")
    given = parser.parse_args(words)
    run = finished(given.work, given.workers, unseen=given.unseen, purpose=given.purpose)
    sources = Sources(run, listing.pyramid(given.local_set or [], asked=True), given.out, given.workers)
    gains = []
    for asked in (run.asked(kind, given.every) for kind in _KINDS):
        plain: Mapping[str, float] = {}
        for setting in ("", *(given.setting or _SETTINGS)):
            found = rerank(run, asked, setting, sources)
            maps = found.maps
            plain = plain or maps
            changes = ", ".join(f"{by} {maps[by]:.4f} ({maps[by] - plain[by]:+.4f})" for by in maps)
            print(
                f"{asked.kind}, {setting or 'global descriptor'}: {changes}; {len(asked.requests)} queries, "
                f"{found.wall_ms:.0f} ms each, {found.cpu_ms:.0f} of processor time",
                flush=True,
            )
            if setting and asked.kind == "crop":
                gains.append(maps["tracks"] - plain["tracks"])
    what = "mAP of crops gained by the best setting"
    return conclude([Claim(what=what, measured=max(gains), limit=0.05, at_least=True)])


if __name__ == "__main__":
    sys.exit(main())
