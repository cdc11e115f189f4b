"""The card of a network that a run trained."""

import json

import pytest

from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build
from experiments.model_card import model_card

SCORES = {"map": 0.7, "recall_at_1": 0.8, "map_per_query": 0.7, "recall_at_1_per_query": 0.8}
GAIN = {
    "kind": "crop",
    "map": 0.1,
    "standard_error": 0.02,
    "places": 9,
    "places_better": 8,
    "places_worse": 1,
    "proven": True,
}


@pytest.fixture
def work(tmp_path):
    """What a run leaves, as far as a card reads it."""
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    save(network, tmp_path / "model")
    row = {**SCORES, "queries": 1200, "places": 9}
    result = {
        "kept": "fine_tuned_whitened",
        "train": {
            "backbone": "squeezenet1_1",
            "pooling": "gem",
            "kept": "fine_tuned_whitened",
            "verdict": "it is better",
            "gain": GAIN,
            "gain_by_training": GAIN,
            "epochs": [],
            "seconds": 1.0,
            "missing_negatives": 0,
            "whitening": {},
        },
        "evaluation": {
            "off_the_shelf": {**row, "map": 0.61234},
            "fine_tuned_whitened": {**row, "map": 0.71239},
        },
    }
    (tmp_path / "model" / "metrics.json").write_text(json.dumps(result))
    return tmp_path


def test_the_card_has_scores_and_data_of_the_run(work):
    counts = {
        "sfm": {"images": 1111, "registered": 706, "models": 54, "places": 66},
        "pairs": {"positives": 7148, "queries": 703},
    }
    (work / "metrics.json").write_text(json.dumps(counts))
    manifest = {"protocol": "small", "seed": 4, "input_sha256": "ab" * 32, "packages": {"torch": "2.9"}}
    (work / "manifest.json").write_text(json.dumps(manifest))
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    card = model_card(network, str(work / "model"))
    front = dict(line.split(": ", 1) for line in card.split("---\n")[1].splitlines())
    (index,) = json.loads(front["model-index"])
    assert index["results"][0]["metrics"][0] == {"type": "map", "name": "mAP", "value": 0.7124}
    assert "| fine-tuned + learned whitening (this one) | 0.7124 | 0.8000 |" in card
    assert "| off the shelf | 0.6123 | 0.8000 |" in card
    assert "1,111 files, 706 of them photos that were registered in 54 3D models of 66 places" in card
    assert "7,148 matching pairs of 703 queries" in card
    assert "protocol small, seed 4, torch 2.9; SHA-256 of the collection `abababababababab`" in card
    assert "On 1,200 queries of 9 held-out places" in card
    assert "It is better." in card


def test_a_network_trained_by_itself_has_scores_only(work):
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    card = model_card(network, str(work / "model"))
    assert "## What it reaches" in card
    assert "## What it learned from" not in card
