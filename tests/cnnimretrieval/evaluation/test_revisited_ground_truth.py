import re

from cnnimretrieval.networks.toolbox_files import NETWORKS, PUBLISHED, TRUNKS, WHITENING_LAYERS


def test_a_name_leads_to_file_hash_and_address():
    file = PUBLISHED["rSfM120k-tl-resnet101-gem-w"]
    assert file.file == "rSfM120k-tl-resnet101-gem-w-a155e54.pth"
    assert file.sha256_prefix == "a155e54"
    assert file.url == (
        "http://cmp.felk.cvut.cz/cnnimageretrieval/data/networks/retrieval-SfM-120k/"
        "rSfM120k-tl-resnet101-gem-w-a155e54.pth"
    )


def test_every_file_ends_in_seven_digits_of_its_hash_and_no_name_is_twice():
    assert len(PUBLISHED) == len(NETWORKS) + len(TRUNKS) + len(WHITENING_LAYERS) == 8 + 4 + 18
    assert len({file.sha256_prefix for file in PUBLISHED.values()}) == len(PUBLISHED)
    for name, file in PUBLISHED.items():
        assert re.fullmatch(r"[0-9a-f]{7}", file.sha256_prefix)
        assert file.file == f"{name}-{file.sha256_prefix}.pth"
