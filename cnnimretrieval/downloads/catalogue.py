"""What is published, by name: where each file lies on the web and below the data folder, its size and hash.

A table only; nothing is opened here. The layout below the data folder is the reference toolbox's:

    test/NAME/jpg            photos of a benchmark          train/NAME/ims    photos of a training set
    test/NAME/gnd_NAME.pkl   its ground truth               train/NAME/*.pkl  its pairs
    networks/FILE.pth        networks and trunks            whiten/FILE.pth   whitening layers

Links were taken from the download scripts of filipradenovic/cnnimageretrieval-pytorch and of
filipradenovic/revisitop and from the README of cvdfoundation/google-landmark; those of Holidays from public
scripts that fetch it. The scripts say http; cmp.felk.cvut.cz and www.robots.ox.ac.uk are linked with https by
other public projects, so https stands here. For ptak.felk.cvut.cz and pascal.inrialpes.fr only http is known.
Sizes marked "about" serve planning, hashes decide.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import PurePosixPath
from types import MappingProxyType
from urllib.parse import urlsplit

from cnnimretrieval.downloads.dataset import DataSet, PublishedFile
from cnnimretrieval.networks import toolbox_files

_CMP = "https://cmp.felk.cvut.cz"
_REFERENCE = f"{_CMP}/cnnimageretrieval/data"
_REVISITOP = f"{_CMP}/revisitop/data"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
_DISTRACTORS = "http://ptak.felk.cvut.cz/revisitop/revisitop1m"
_HOLIDAYS = "http://pascal.inrialpes.fr/data/holidays"
_LANDMARKS = "https://s3.amazonaws.com/google-landmark"

# Parameters in float32 of the trunks, and of a linear layer on top of them.
_NETWORK_BYTES = {"vgg16": 59e6, "resnet50": 94e6, "resnet101": 170e6, "resnet152": 233e6}


def find(name: str) -> DataSet:
    """The data set called `name`; ValueError naming the nearest when there is none."""
    if name in DATA_SETS:
        return DATA_SETS[name]
    near = get_close_matches(name, DATA_SETS, 1)
    remedy = f"did you mean '{near[0]}'?" if near else "`download list` shows all"
    raise ValueError(f"NAME: expected a published data set or network, got '{name}'; {remedy}")


def _in_folder(folder: str, url: str, **more: str | int) -> PublishedFile:
    name = PurePosixPath(urlsplit(url).path).name
    return PublishedFile(url=url, path=f"{folder}/{name}", **more)  # type: ignore[arg-type]


def _photos(folder: str, *urls: str, about_bytes: Iterable[int | None]) -> tuple[PublishedFile, ...]:
    """Archives whose photos all go to one folder."""
    return tuple(
        PublishedFile(
            url=url,
            path=f"{folder}/{PurePosixPath(url).name}",
            into=f"{folder}/jpg",
            flat=True,
            about_bytes=size,
        )
        for url, size in zip(urls, about_bytes, strict=True)
    )


def _ground_truth(name: str, base: str, sha256: str = "", size: int | None = None) -> PublishedFile:
    return PublishedFile(
        url=f"{base}/{name}/gnd_{name}.pkl",
        path=f"test/{name}/gnd_{name}.pkl",
        sha256=sha256,
        about_bytes=size,
    )


# Since June 2022 the "-v1" archives, with blurred faces, stand in for the first ones.
_OXFORD_PHOTOS = _photos(
    "test/oxford5k", f"{_OXFORD}/oxbuildings/oxbuild_images-v1.tgz", about_bytes=[1_938_238_004]
)
_PARIS_PHOTOS = _photos(
    "test/paris6k",
    f"{_OXFORD}/parisbuildings/paris_1-v1.tgz",
    f"{_OXFORD}/parisbuildings/paris_2-v1.tgz",
    about_bytes=[1_270_000_000, None],
)
_SFM_PHOTOS = PublishedFile(
    url=f"{_REFERENCE}/train/ims/ims.tar.gz",
    path="train/retrieval-SfM-120k/ims.tar.gz",
    into="train/retrieval-SfM-120k/ims",
    about_bytes=50_000_000_000,  # "more than 50 GB", issue 52 of the reference
)


def _landmark_archives(part: str, count: int, about_bytes: int) -> tuple[PublishedFile, ...]:
    return tuple(
        PublishedFile(
            url=f"{_LANDMARKS}/{part}/images_{number:03}.tar",
            path=f"test/gldv2/{part}_images_{number:03}.tar",
            into=f"test/gldv2/{part}",
            md5_url=f"{_LANDMARKS}/md5sum/{part}/md5.images_{number:03}.txt",
            about_bytes=about_bytes,
        )
        for number in range(count)
    )


_LANDMARK_TABLES = tuple(
    _in_folder("test/gldv2", f"{_LANDMARKS}/{path}")
    for path in ("metadata/index.csv", "metadata/test.csv", "ground_truth/retrieval_solution_v2.1.csv")
)
# 761,757 and 117,577 photos; sizes as their README gives them.
_LANDMARK_INDEX = _landmark_archives("index", 100, 850_000_000)
_LANDMARK_TEST = _landmark_archives("test", 20, 500_000_000)

_BENCHMARKS = (
    DataSet(
        name="oxford5k",
        title="Oxford Buildings: 5,063 photos, 55 queries",
        files=(*_OXFORD_PHOTOS, _ground_truth("oxford5k", f"{_REFERENCE}/test")),
    ),
    DataSet(
        name="paris6k",
        title="Paris: 6,392 photos, 55 queries",
        files=(*_PARIS_PHOTOS, _ground_truth("paris6k", f"{_REFERENCE}/test")),
    ),
    DataSet(
        name="roxford5k",
        title="Revisited Oxford: 4,993 photos, 70 queries",
        files=(
            *_OXFORD_PHOTOS,
            _ground_truth(
                "roxford5k",
                f"{_REVISITOP}/datasets",
                "ba7967754bd2d7d2210a5799f9c45ad5835e269a80ef9d3eba44caa35816c471",
                149_871,
            ),
        ),
        links=(("test/roxford5k/jpg", "test/oxford5k/jpg"),),
    ),
    DataSet(
        name="rparis6k",
        title="Revisited Paris: 6,322 photos, 70 queries",
        files=(
            *_PARIS_PHOTOS,
            _ground_truth(
                "rparis6k",
                f"{_REVISITOP}/datasets",
                "d2e729a5293dda7dda8a15c8383424a42e4964a2c4cfea2f32fa85d11d2df499",
                276_508,
            ),
        ),
        links=(("test/rparis6k/jpg", "test/paris6k/jpg"),),
    ),
    DataSet(
        name="revisitop1m",
        title="about 1,001,001 distractors for the revisited benchmarks",
        files=(
            _in_folder("test/revisitop1m", f"{_DISTRACTORS}/revisitop1m.txt"),
            *(
                PublishedFile(
                    url=f"{_DISTRACTORS}/jpg/revisitop1m.{number}.tar.gz",
                    path=f"test/revisitop1m/revisitop1m.{number}.tar.gz",
                    into="test/revisitop1m/jpg",
                    about_bytes=4_440_000_000,
                )
                for number in range(1, 101)
            ),
        ),
    ),
    DataSet(
        name="revisitop-features",
        title="descriptors of both revisited benchmarks with their published scores",
        files=tuple(
            _in_folder("features", f"{_REVISITOP}/features/{name}_resnet_rsfm120k_gem.mat")
            for name in ("roxford5k", "rparis6k")
        ),
    ),
    DataSet(
        name="holidays",
        title="INRIA Holidays: 1,491 photos, 500 queries",
        files=_photos(
            "test/holidays", f"{_HOLIDAYS}/jpg1.tar.gz", f"{_HOLIDAYS}/jpg2.tar.gz", about_bytes=[None, None]
        ),
    ),
    DataSet(
        name="gldv2-groundtruth",
        title="Google Landmarks v2: which index photos answer which test photo",
        files=_LANDMARK_TABLES,
    ),
    DataSet(
        name="gldv2",
        title="Google Landmarks v2: index and test photos, ground truth",
        files=(*_LANDMARK_TABLES, *_LANDMARK_INDEX, *_LANDMARK_TEST),
    ),
)

_TRAINING = (
    DataSet(
        name="retrieval-SfM-120k",
        title="training pairs mined by reconstruction, 98,045 photos, and the pairs for whitening",
        files=(
            _in_folder("train/retrieval-SfM-120k", f"{_REFERENCE}/train/dbs/retrieval-SfM-120k.pkl"),
            _in_folder("train/retrieval-SfM-120k", f"{_REFERENCE}/train/dbs/retrieval-SfM-120k-whiten.pkl"),
            _SFM_PHOTOS,
        ),
    ),
    DataSet(
        name="retrieval-SfM-30k",
        title="the smaller set of pairs for whitening; its photos are those of retrieval-SfM-120k",
        files=(
            _in_folder("train/retrieval-SfM-30k", f"{_REFERENCE}/train/dbs/retrieval-SfM-30k-whiten.pkl"),
            _SFM_PHOTOS,
        ),
        links=(("train/retrieval-SfM-30k/ims", "train/retrieval-SfM-120k/ims"),),
    ),
)


def _network_file(file: toolbox_files.PublishedFile) -> PublishedFile:
    folder = "whiten" if file.name in toolbox_files.WHITENING_LAYERS else "networks"
    size = 0.0 if folder == "whiten" else next((b for a, b in _NETWORK_BYTES.items() if a in file.name), 0.0)
    return PublishedFile(
        url=f"{_REFERENCE}/{file.path}",
        path=f"{folder}/{file.file}",
        sha256=file.sha256_prefix,
        about_bytes=round(size) or None,
    )


def _networks(
    title: str, group: str, files: Mapping[str, toolbox_files.PublishedFile]
) -> tuple[DataSet, ...]:
    """A data set for each file, and one of them all."""
    single = tuple(
        DataSet(name=name, title=title, files=(_network_file(file),)) for name, file in files.items()
    )
    every = tuple(one.files[0] for one in single)
    return (*single, DataSet(name=group, title=f"each {title}", files=every))


DATA_SETS: Mapping[str, DataSet] = MappingProxyType(
    {
        one.name: one
        for one in (
            *_BENCHMARKS,
            *_TRAINING,
            *_networks("retrieval network", "networks", toolbox_files.NETWORKS),
            *_networks("trunk trained on ImageNet", "trunks", toolbox_files.TRUNKS),
            *_networks("whitening layer to start from", "whitening-layers", toolbox_files.WHITENING_LAYERS),
        )
    }
)
