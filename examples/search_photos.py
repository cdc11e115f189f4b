"""Find the photos of a folder that show the same as a photo: python search_photos.py PHOTOS QUERY [MODEL]."""

import sys
from pathlib import Path

import cnnimretrieval as cr


def main(photos: str, query: str, model: str = "resnet18:gem") -> None:
    """Describe the folder once, beside it, and print the ten photos most like the query."""
    network = cr.load(model)
    folder = Path(photos).with_name(f"{Path(photos).name}-descriptors")
    store = cr.extract(network, photos, folder, cr.ExtractConfig(image_size=362))
    print(f"{len(store.vectors)} photos described, {len(store.rejected)} files left out")
    (answer,) = cr.search(network, folder, [query], top=10)
    for hit in answer.hits:
        print(f"{hit.score:.3f}  {hit.name}")


# Photos are read by processes that load this script, too: calls stand below this line.
if __name__ == "__main__":
    main(*sys.argv[1:])
