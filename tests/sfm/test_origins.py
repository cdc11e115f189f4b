import pandas as pd

from sfm.origins import yield_by_origin


def _pairs(*origins: str) -> pd.DataFrame:
    return pd.DataFrame({"origin": pd.Series(origins, dtype="str")})


def test_combinations_count_once_each_and_for_each_source() -> None:
    tried = _pairs("vlad", "vlad", "vlad+gps", "gps", "gps", "gps", "vlad", "vlad+gps+list")
    trusted = _pairs("vlad", "vlad+gps", "gps")
    assert yield_by_origin(tried, trusted) == {
        "gps": {"tried": 3, "trusted": 1, "share": 0.3333},
        "vlad": {"tried": 3, "trusted": 1, "share": 0.3333},
        "vlad+gps": {"tried": 1, "trusted": 1, "share": 1.0},
        "vlad+gps+list": {"tried": 1, "trusted": 0, "share": 0.0},
        "gps in all": {"tried": 5, "trusted": 2, "share": 0.4},
        "list in all": {"tried": 1, "trusted": 0, "share": 0.0},
        "vlad in all": {"tried": 5, "trusted": 2, "share": 0.4},
    }


def test_single_sources_are_not_said_twice() -> None:
    assert yield_by_origin(_pairs("all", "all"), _pairs("all")) == {
        "all": {"tried": 2, "trusted": 1, "share": 0.5}
    }
