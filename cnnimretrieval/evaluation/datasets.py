"""The published benchmarks: where each lies below a folder of data, as downloads unpack it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cnnimretrieval.evaluation.benchmark import Benchmark
from cnnimretrieval.evaluation.holidays import read_holidays
from cnnimretrieval.evaluation.landmarks import read_landmarks
from cnnimretrieval.evaluation.revisited_ground_truth import read_published, with_jpg


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a benchmark lies below the folder of data; all paths are POSIX and relative.

    `ground_truth`, `names` and the folders of photos lie below `folder`. A benchmark without a ground-truth
    file says everything by its file names; `names` lists the photos of a set too large to be searched for
    them. `num_photos` are there to be searched, without distractors.
    """

    folder: str
    ground_truth: str | None = None
    database: str = "jpg"
    queries: str = "jpg"
    names: str | None = None
    num_photos: int


# As filipradenovic/cnnimageretrieval-pytorch keeps them, so that its data serve as they are.
LAYOUTS: Mapping[str, Layout] = {
    "oxford5k": Layout(folder="test/oxford5k", ground_truth="gnd_oxford5k.pkl", num_photos=5_063),
    "paris6k": Layout(folder="test/paris6k", ground_truth="gnd_paris6k.pkl", num_photos=6_392),
    "roxford5k": Layout(folder="test/roxford5k", ground_truth="gnd_roxford5k.pkl", num_photos=4_993),
    "rparis6k": Layout(folder="test/rparis6k", ground_truth="gnd_rparis6k.pkl", num_photos=6_322),
    "holidays": Layout(folder="test/holidays", num_photos=1_491),
    "holidays-upright": Layout(folder="test/holidays-upright", num_photos=1_491),
    "gldv2": Layout(
        folder="test/gldv2",
        ground_truth="retrieval_solution_v2.1.csv",
        database="index",
        queries="test",
        names="index.csv",
        num_photos=761_757,
    ),
}

# One million photos of nothing in particular, searched along with ROxford and RParis.
DISTRACTORS = Layout(folder="test/revisitop1m", names="revisitop1m.txt", num_photos=1_001_001)

# Of photos in a test set of one's own, besides the toolbox's .jpg.
_ENDINGS = (".JPG", ".jpeg", ".JPEG", ".png", ".PNG", ".webp")


def read_benchmark(name: str, data: Path) -> Benchmark:
    """The published benchmark `name`, one of `LAYOUTS`, whose files lie below `data`.

    Only the ground truth is read, no photo. FileNotFoundError when it is not there, ValueError when it has
    another form than the published one.
    """
    layout = LAYOUTS[name]
    folder = data / layout.folder
    photos = folder / layout.database
    if layout.ground_truth is None:
        return read_holidays(photos, name, published_size=layout.num_photos)
    truth = folder / layout.ground_truth
    if layout.names is None:
        return read_published(truth, photos, name, published_size=layout.num_photos)
    queries = folder / layout.queries
    size = layout.num_photos
    return read_landmarks(truth, folder / layout.names, photos, queries, name, published_size=size)


def read_test_set(path: Path, data: Path) -> Benchmark:
    """Somebody's own test set in a pickle of the toolbox's form, gnd_NAME.pkl, with its photos below `data`.

    They lie where the toolbox keeps them, in test/NAME/jpg, NAME/jpg or jpg, or in `data` itself; a photo
    that is not there under its name and .jpg is looked for without it and with other endings. Errors as of
    `read_published`.
    """
    name = path.stem.removeprefix("gnd_")
    folders = [data / "test" / name / "jpg", data / name / "jpg", data / "jpg", data]
    photos = next(folder for folder in folders if folder.is_dir() or folder == data)

    def file_of(photo: str) -> str:
        names = (with_jpg(photo), photo, *(photo + ending for ending in _ENDINGS))
        return next((name for name in names if (photos / name).is_file()), names[0])

    return read_published(path, photos, name, file_of=file_of)
