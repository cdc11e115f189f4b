"""The published benchmarks: where each lies below a folder of data, as downloads unpack it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a benchmark lies below the folder of data; all paths are POSIX and relative.

    `ground_truth` and the folders of photos lie below `folder`. A benchmark without a ground-truth file
    says everything by its file names; `names` lists the photos of a set too large to be searched for them.
    """

    folder: str
    ground_truth: str | None = None
    database: str = "jpg"
    queries: str = "jpg"
    names: str | None = None


# As filipradenovic/cnnimageretrieval-pytorch keeps them, so that its data serve as they are.
LAYOUTS: Mapping[str, Layout] = {
    "oxford5k": Layout(folder="test/oxford5k", ground_truth="gnd_oxford5k.pkl"),
    "paris6k": Layout(folder="test/paris6k", ground_truth="gnd_paris6k.pkl"),
    "roxford5k": Layout(folder="test/roxford5k", ground_truth="gnd_roxford5k.pkl"),
    "rparis6k": Layout(folder="test/rparis6k", ground_truth="gnd_rparis6k.pkl"),
    "holidays": Layout(folder="test/holidays"),
    "holidays-upright": Layout(folder="test/holidays-upright"),
    "gldv2": Layout(
        folder="test/gldv2",
        ground_truth="retrieval_solution_v2.1.csv",
        database="index",
        queries="test",
        names="index.csv",
    ),
}

# One million photos of nothing in particular, searched along with ROxford and RParis.
DISTRACTORS = Layout(folder="test/revisitop1m", names="revisitop1m.txt")
