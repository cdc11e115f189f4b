"""Image-retrieval networks: training, descriptors, search, evaluation.

    import cnnimretrieval as cr

    network = cr.load("WORK/model")
    vectors = network.describe(["a.jpg", "b.jpg"])

This is the public interface, loaded when it is used: `import cnnimretrieval` itself does not wait for torch.
It tells nothing of its progress unless `show_progress` is called.
"""

import logging
import sys
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

_HOMES = {
    "cnnimretrieval.api": ("Describer", "load"),
    "cnnimretrieval.stages": ("describe", "extract", "search"),
    # Above this package, where protocols are read.
    "experiments.programs": ("fine_tune", "mine", "reconstruct"),
    "cnnimretrieval.descriptors.extract": ("ExtractConfig",),
    "cnnimretrieval.search.rerank": ("RerankConfig",),
    "cnnimretrieval.training.fine_tune": ("TrainConfig",),
    "pairs.mine": ("MineConfig",),
    "sfm.reconstruct": ("ReconstructConfig",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_PACKAGES = ("cnnimretrieval", "groundwork", "pairs", "sfm")

__all__ = [
    "__version__",
    "show_progress",
    *sorted(_HOME),
]

for _package in _PACKAGES:
    # Without a handler of its own Python would print warnings of a program that set up no logging.
    logging.getLogger(_package).addHandler(logging.NullHandler())


def show_progress(on: bool = True) -> None:
    """Show, or no longer, how far long work has come and what its stages tell, on stderr."""
    logging.basicConfig(format="%(message)s")
    for package in _PACKAGES:
        logging.getLogger(package).setLevel(logging.INFO if on else logging.NOTSET)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("cnnimretrieval")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'cnnimretrieval' has no attribute '{name}'")


class _Room(ModuleType):
    """The package below this one that is called as one of the functions: calling it calls the function."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return import_module(_HOME["search"]).search(*args, **options)


class _Public(ModuleType):
    """The module of the interface: a package below it that is imported becomes its attribute."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "search" and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Public


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
