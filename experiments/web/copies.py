"""Near-copies as a child process finds them for the page: names, group by group. No torch here."""

from pathlib import Path

from cnnimretrieval.search.duplicates import find_duplicates
from groundwork.descriptor_folder import read_descriptor_folder


def groups_of_copies(folder: Path, photos: Path) -> list[list[str]]:
    """The names of each group of near-copies, the largest photo first."""
    found = find_duplicates(read_descriptor_folder(folder), photos)
    return [[copy.name for copy in group] for group in found.groups]
