"""What the run came to, in a few sentences that say no more than the scores do."""

from dataclasses import dataclass

from cnnimretrieval.evaluation.metrics import MIN_PLACES
from experiments.report.reading import Json, RunFiles
from experiments.report.tables import score_kinds
from experiments.scoreboard import KINDS, ROWS

START = "off_the_shelf"
_NO_PROOF = " So few places do not prove such a difference."
FINE_TUNED = ("fine_tuned", "fine_tuned_loss_whitening", "fine_tuned_whitened")
# What fine-tuning is measured against; with the same whitening the difference is that of training alone.
_COMPARED = {"gain": "PCA whitening", "gain_by_training": "learned whitening, too"}
_AS_KEPT = {
    "off_the_shelf": "as it came",
    "off_the_shelf_pca": "with PCA whitening",
    "off_the_shelf_whitened": "with learned whitening",
}


@dataclass(frozen=True, kw_only=True)
class Headline:
    """Title line, what it rests on, and whether fine-tuning won; None where nothing can be said."""

    title: str
    detail: str
    helped: bool | None


def headline(files: RunFiles) -> Headline:
    """The best row and its gain over the network as it came, or what there is instead."""
    if not files.evaluation:
        return Headline(
            title="The run has no scores yet",
            detail="Run it again: it continues where it stopped. Below is what there is so far.",
            helped=None,
        )
    kind = score_kinds(files.evaluation)[0]
    kept = (files.train or {}).get("kept") or max(
        files.evaluation, key=lambda row: files.evaluation[row][kind]["map"] if files.evaluation else 0.0
    )
    return Headline(
        title=_title(files.evaluation, kind, kept),
        detail=_detail(files.evaluation, kind, files.train or {}),
        helped=kept in FINE_TUNED if files.evaluation[START][kind]["places"] >= MIN_PLACES else None,
    )


def _title(evaluation: Json, kind: str, kept: str) -> str:
    start, best = evaluation[START][kind]["map"], evaluation[kept][kind]["map"]
    if (places := evaluation[START][kind]["places"]) < MIN_PLACES:
        measured = f"{_capital(ROWS[kept])}: mAP {best:.3f} on {_places(places)}"
        return f"{measured}, too few to say whether fine-tuning helped"
    if kept in FINE_TUNED:
        return f"{_capital(ROWS[kept])}: mAP {best:.3f}, from {start:.3f} off the shelf"
    return f"Fine-tuning did not help: the network {_AS_KEPT[kept]} is kept, mAP {best:.3f}"


def _detail(evaluation: Json, kind: str, train: Json) -> str:
    scores = evaluation[START][kind]
    basis = (
        f"Measured on {scores['queries']:,} {KINDS[kind]} of {_places(scores['places'])} that training never "
        "saw, "
        "searched among photos that nothing was fitted to, averaged over places."
    )
    return basis + "".join(
        _compared(over, train[gain])
        for gain, over in _COMPARED.items()
        if gain in train and train[gain]["map"] is not None
    )


def _compared(over: str, gain: Json) -> str:
    error = gain["standard_error"]
    compared = (
        f" Fine-tuned with learned whitening against off the shelf with {over}: {gain['map']:+.3f} "
        f"{'(standard error unknown)' if error is None else f'± {error:.3f} (standard error over places)'}, "
        f"better on {gain['places_better']:,} and worse on {gain['places_worse']:,}."
    )
    return compared if gain.get("proven") else compared + _NO_PROOF


def _places(count: int) -> str:
    return f"{count:,} held-out {'place' if count == 1 else 'places'}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
