from cnnimretrieval.training.result import RowScores
from experiments.scoreboard import as_table

HEAD = "held-out places, searched among photos that nothing was fitted to"


def kind(score, queries):
    per_query = {"map_per_query": 0.1, "recall_at_1_per_query": 0.2}
    return {"map": score, "recall_at_1": score / 2, "queries": queries, "places": 7, **per_query}


def scores(crop_map, whole_map):
    crop, whole = kind(crop_map, 1200), kind(whole_map, 600)
    return RowScores.model_validate({**crop, "crop": crop, "whole": whole})


def test_the_rows_that_there_are_in_the_order_of_the_experiment():
    evaluation = {
        "off_the_shelf": scores(0.5, 0.75),
        "off_the_shelf_pca": scores(0.625, 0.8125),
        "fine_tuned_whitened": scores(0.6875, 1.0),
        "off_the_shelf_whitened": scores(0.6, 0.8),
        "fine_tuned": scores(0.51234, 0.7),
    }
    lines = as_table(evaluation, "fine_tuned_whitened").splitlines()
    assert lines == [
        f"{HEAD} (crop: 1,200 queries, 7 places; whole: 600 queries, 7 places)",
        "                                       crop mAP  R@1   whole mAP  R@1",
        "  off the shelf                         0.5000  0.25     0.7500  0.38",
        "  off the shelf + PCA whitening         0.6250  0.31     0.8125  0.41",
        "  off the shelf + learned whitening     0.6000  0.30     0.8000  0.40",
        "  fine-tuned                            0.5123  0.26     0.7000  0.35",
        "* fine-tuned + learned whitening        0.6875  0.34     1.0000  0.50",
    ]
    evaluation["fine_tuned_loss_whitening"] = scores(0.7, 0.9)
    lines[-1] = lines[-1].replace("*", " ")
    lines.insert(6, "* fine-tuned + the loss's whitening     0.7000  0.35     0.9000  0.45")
    assert as_table(evaluation, "fine_tuned_loss_whitening").splitlines() == lines


def test_one_kind_of_query():
    whole = {**kind(0.5, 3), "whole": kind(0.5, 3)}
    lines = as_table({"off_the_shelf": RowScores.model_validate(whole)}, "off_the_shelf").splitlines()
    assert lines == [
        f"{HEAD} (whole: 3 queries, 7 places)",
        "                                      whole mAP  R@1",
        "* off the shelf                         0.5000  0.25",
    ]


def test_of_few_places_no_row_is_called_better():
    few = kind(0.5, 3) | {"places": 2}
    lines = as_table({"off_the_shelf": RowScores.model_validate({**few, "whole": few})}, "off_the_shelf")
    assert lines.splitlines()[-1] == "too few places to say which row is better: 2, at least 5 are needed"


def test_the_situations_stand_below_the_kinds_of_query():
    def both(first, second):
        kinds = [{"crop": kind(score, 9), "far": kind(score, 3)} for score in (first, second)]
        situations = {"unseen_database": kinds[0], "own_collection": kinds[1]}
        return RowScores.model_validate({**kinds[0]["crop"], **kinds[0], "situations": situations})

    evaluation = {"off_the_shelf": both(0.5, 0.25), "fine_tuned": both(0.75, 0.125)}
    assert as_table(evaluation, "fine_tuned").splitlines() == [
        f"{HEAD} (crop: 9 queries, 7 places; far: 3 queries, 7 places)",
        "                                       crop mAP  R@1     far mAP  R@1",
        "  off the shelf                         0.5000  0.25     0.5000  0.25",
        "* fine-tuned                            0.7500  0.38     0.7500  0.38",
        "crop mAP, searched among ...",
        "                                       unseen photos       own photos",
        "  off the shelf                               0.5000           0.2500",
        "* fine-tuned                                  0.7500           0.1250",
    ]
