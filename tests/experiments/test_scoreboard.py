from experiments.scoreboard import as_table


def scores(crop_map, whole_map):
    return {
        "crop": {"map": crop_map, "recall_at_1": crop_map / 2, "queries": 1200, "places": 7},
        "whole": {"map": whole_map, "recall_at_1": whole_map / 2, "queries": 600, "places": 7},
    }


def test_four_rows():
    evaluation = {
        "off_the_shelf": scores(0.5, 0.75),
        "off_the_shelf_pca": scores(0.625, 0.8125),
        "fine_tuned": scores(0.51234, 0.7),
        "fine_tuned_whitened": scores(0.6875, 1.0),
    }
    assert as_table(evaluation, "fine_tuned_whitened").splitlines() == [
        "held-out places (crop: 1,200 queries, 7 places; whole: 600 queries, 7 places)",
        "                                     crop mAP  R@1   whole mAP  R@1",
        "  off the shelf                       0.5000  0.25     0.7500  0.38",
        "  off the shelf + PCA whitening       0.6250  0.31     0.8125  0.41",
        "  fine-tuned                          0.5123  0.26     0.7000  0.35",
        "* fine-tuned + learned whitening      0.6875  0.34     1.0000  0.50",
    ]


def test_one_kind_of_query():
    whole = {"whole": {"map": 0.5, "recall_at_1": 0.25, "queries": 3, "places": 2}}
    rows = ("off_the_shelf", "off_the_shelf_pca", "fine_tuned", "fine_tuned_whitened")
    lines = as_table(dict.fromkeys(rows, whole), "off_the_shelf").splitlines()
    assert lines[0] == "held-out places (whole: 3 queries, 2 places)"
    assert lines[2] == "* off the shelf                       0.5000  0.25"
    assert lines[-1] == "too few places to say which row is better: 2, at least 5 are needed"
