"""Image-retrieval networks: training, descriptors, search, evaluation.

    import cnnimretrieval as cr

    network = cr.load("WORK/model")
    vectors = network.describe(["a.jpg", "b.jpg"])

This is the public interface, loaded when it is used: `import cnnimretrieval` itself does not wait for torch.
"""

from importlib import import_module, metadata
from typing import Any

_HOME = {"Describer": "cnnimretrieval.api", "load": "cnnimretrieval.api"}

__all__ = ["Describer", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("cnnimretrieval")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'cnnimretrieval' has no attribute '{name}'")
