import pytest

from experiments.benchmarks import aggregated_scale
from experiments.benchmarks.aggregated_scale import Grown, projected


def test_what_is_projected_lies_on_a_line():
    def grown(photos, factor):
        return Grown(
            photos=photos,
            build_s=2.0 * factor,
            search_s=0.5 + 0.1 * factor,
            build_bytes=1000 + 7 * factor,
            search_bytes=10 * factor,
            bytes_a_photo=20.0,
        )

    found = projected(grown(100, 1), grown(300, 3), 1000)
    assert (found.build_s, found.search_s) == (pytest.approx(20.0), pytest.approx(1.5))
    assert (found.build_bytes, found.search_bytes, found.photos) == (1070, 100, 1000)


def test_photos_that_never_were_are_built_and_searched(capsys):
    words = ["--photos", "40", "--features", "30", "--words", "64", "--dim", "16"]
    assert aggregated_scale.main(words) in (0, 1)
    assert capsys.readouterr().out.count("bytes a photo on disk") == 3
