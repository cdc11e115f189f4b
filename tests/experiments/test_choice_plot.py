"""The picture of a comparison of recipes: what a dot's colour says."""

import re

import pytest

from cnnimretrieval.evaluation.paired import Difference
from experiments.benchmarks.measuring.choice_plot import plot

GAIN, LOSS, CHANCE = "#2ca02c", "#d62728", "#7f7f7f"


@pytest.mark.parametrize(
    ("mean", "low", "high", "colour"),
    [
        (0.02, 0.01, 0.03, GAIN),
        (-0.02, -0.03, -0.01, LOSS),
        (0.02, -0.01, 0.05, CHANCE),
        (0.02, None, None, CHANCE),
    ],
)
def test_a_dot_says_gain_loss_or_chance(mean, low, high, colour, tmp_path):
    found = Difference(mean=mean, low=low, high=high, count=9, better=5, worse=4)
    plot({"recipe": found}, "first", tmp_path / "plot.svg")
    drawn = set(re.findall(r"#[0-9a-f]{6}", (tmp_path / "plot.svg").read_text(encoding="utf-8")))
    assert drawn & {GAIN, LOSS} == {colour} - {CHANCE}


def test_nothing_to_compare_draws_nothing(tmp_path):
    plot({}, "first", tmp_path / "plot.svg")
    assert list(tmp_path.iterdir()) == []
