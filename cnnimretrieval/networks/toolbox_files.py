"""What the reference toolbox publishes: its networks, trunks and whitening layers by name, file and hash.

A list of names only: downloading is the business of whoever reads it, reading the files that of
`cnnimretrieval.networks.reference`. The toolbox is filipradenovic/cnnimageretrieval-pytorch at 1e66a41.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

# Below it lie networks/ and whiten/. The host may offer https too; the hash is what vouches for a file.
DATA_URL = "http://cmp.felk.cvut.cz/cnnimageretrieval/data"


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file; `path` is its place below `DATA_URL`, and `name` the published one without its hash."""

    name: str
    path: str

    @property
    def file(self) -> str:
        """The file's own name, as it is kept on disk."""
        return PurePosixPath(self.path).name

    @property
    def sha256_prefix(self) -> str:
        """The first 7 hex digits of the file's SHA-256, which end its name."""
        return PurePosixPath(self.path).stem.rpartition("-")[2]

    @property
    def url(self) -> str:
        """Where the file is published."""
        return f"{DATA_URL}/{self.path}"


def _listed(folder: str, *stems: str) -> dict[str, PublishedFile]:
    files = (PublishedFile(name=stem.rpartition("-")[0], path=f"{folder}/{stem}.pth") for stem in stems)
    return {file.name: file for file in files}


# Whole retrieval networks: what MODEL may name. Those with "-w" end in a learned projection, the others bring
# whitenings for one and several scales.
NETWORKS: Mapping[str, PublishedFile] = {
    **_listed(
        "networks/retrieval-SfM-120k",
        "retrievalSfM120k-vgg16-gem-b4dcdc6",
        "retrievalSfM120k-resnet101-gem-b80fb85",
        "rSfM120k-tl-resnet50-gem-w-97bf910",
        "rSfM120k-tl-resnet101-gem-w-a155e54",
        "rSfM120k-tl-resnet152-gem-w-f39cada",
    ),
    **_listed(
        "networks/gl18",
        "gl18-tl-resnet50-gem-w-83fdc30",
        "gl18-tl-resnet101-gem-w-a4d43db",
        "gl18-tl-resnet152-gem-w-21278d5",
    ),
}

# Trunks trained on ImageNet in Caffe, which the published networks of these architectures start from.
TRUNKS: Mapping[str, PublishedFile] = _listed(
    "networks/imagenet",
    "imagenet-caffe-vgg16-features-d369c8e",
    "imagenet-caffe-resnet50-features-ac468af",
    "imagenet-caffe-resnet101-features-10a101d",
    "imagenet-caffe-resnet152-features-1011020",
)

# Linear layers (weight, bias) that projection networks start from: "whiten" ends the network, "rwhiten" acts
# on regions, "lwhiten" at every location.
WHITENING_LAYERS: Mapping[str, PublishedFile] = _listed(
    "whiten/retrieval-SfM-120k",
    "retrieval-SfM-120k-resnet101-lwhiten-9f830ef",
    "retrieval-SfM-120k-alexnet-gem-r-rwhiten-c8cf7e2",
    "retrieval-SfM-120k-vgg16-gem-r-rwhiten-19b204e",
    "retrieval-SfM-120k-resnet101-mac-r-rwhiten-7f1ed8c",
    "retrieval-SfM-120k-resnet101-gem-r-rwhiten-adace84",
    "retrieval-SfM-120k-alexnet-gem-whiten-454ad53",
    "retrieval-SfM-120k-alexnet-gem-r-whiten-4c9126b",
    "retrieval-SfM-120k-vgg16-gem-whiten-eaa6695",
    "retrieval-SfM-120k-vgg16-gem-r-whiten-83582df",
    "retrieval-SfM-120k-resnet50-gem-whiten-f15da7b",
    "retrieval-SfM-120k-resnet101-mac-r-whiten-9df41d3",
    "retrieval-SfM-120k-resnet101-gem-whiten-22ab0c1",
    "retrieval-SfM-120k-resnet101-gem-r-whiten-b379c0a",
    "retrieval-SfM-120k-resnet101-gemmp-whiten-770f53c",
    "retrieval-SfM-120k-resnet152-gem-whiten-abe7b93",
    "retrieval-SfM-120k-densenet121-gem-whiten-79e3eea",
    "retrieval-SfM-120k-densenet169-gem-whiten-6b2a76a",
    "retrieval-SfM-120k-densenet201-gem-whiten-22ea45c",
)

# The layers of a network that may start from one, as `NetworkConfig` calls them.
LayerName = Literal["local_whitening", "region_whitening", "projection"]
LAYERS: tuple[LayerName, ...] = ("local_whitening", "region_whitening", "projection")

PUBLISHED: Mapping[str, PublishedFile] = {**NETWORKS, **TRUNKS, **WHITENING_LAYERS}
