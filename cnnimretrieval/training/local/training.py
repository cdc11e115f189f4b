"""The local head of the network that is handed out, learned from places and tracks.

Its losses never reach the trunk: so it is learned after the trunk, on the one that is kept, from maps that
are computed once. The sum of all losses has the same gradient as where both learn side by side.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_values
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cnnimretrieval.networks.linear import set_to_whitening
from cnnimretrieval.networks.local_head import NUM_QUANTILES, LocalHead, attention_pooled
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.local.batch import LocalBatch, LocalBatches
from cnnimretrieval.training.local.losses import (
    attended_loss,
    correspondence_loss,
    pooled_loss,
    reconstruction_loss,
)
from cnnimretrieval.training.local.maps import PhotoMap, photo_maps
from cnnimretrieval.training.local.settings import LocalTrainingConfig
from cnnimretrieval.training.local.supervision import (
    Observations,
    model_files,
    observations,
    pseudo_classes,
)
from cnnimretrieval.training.losses.margin_heads import MarginHead, PlainHead
from cnnimretrieval.training.losses.pair_masks import PairMasks
from cnnimretrieval.training.photos.collection import Collection
from cnnimretrieval.training.photos.sampling import draw_pairs
from cnnimretrieval.whitening.estimates import pca_whitening
from groundwork.progress import progress
from groundwork.random_streams import random_stream
from groundwork.settings import Values
from pairs.image_pairs import Candidates
from pairs.pair_table import read_candidates

logger = logging.getLogger(__name__)

_PLACES_OF_A_PHOTO = 200


class LocalResult(Values):
    """How a local head was learned: its losses, weighted, an epoch each, by name."""

    photos: int
    losses: dict[str, tuple[float, ...]]
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Lessons:
    """What a local head can be taught from: the photos with their pairs, and what else is known of them."""

    collection: Collection
    candidates: Candidates
    seen: Mapping[int, Observations]
    device: str = "cpu"
    workers: int = 0


def teaching_models(pairs_dir: Path, config: LocalTrainingConfig) -> list[Path]:
    """The files of the models whose tracks teach; none where they are not asked for.

    FileNotFoundError when they are, and there are none.
    """
    if not config.weights.need_tracks:
        return []
    return model_files(config.sfm if config.sfm is not None else pairs_dir.parent / "sfm")


def read_lessons(
    pairs_dir: Path, collection: Collection, models: Sequence[Path], *, device: str, workers: int
) -> Lessons:
    """What is known of the photos of mined pairs, and of the tracks of these models."""
    table = collection.table
    return Lessons(
        collection=collection,
        candidates=read_candidates(pairs_dir, table.names),
        seen=observations(models, table),
        device=device,
        workers=workers,
    )


def learn_local(
    network: RetrievalNetwork, lessons: Lessons, config: LocalTrainingConfig, seed: int
) -> LocalResult:
    """Teach the local head of `network`, in place; nothing else of it changes.

    ValueError when the losses leave the finite numbers, OSError when a photo cannot be read any more.
    """
    started = time.monotonic()
    _, head = network.require_local()
    rng = random_stream(seed, "local head")
    table = lessons.collection.table
    pairs = np.unique(np.stack(draw_pairs(table, config.photos // 2, rng), axis=1), axis=0)
    rows = np.unique(pairs)
    sizes = [max(1, round(config.image_size * scale)) for scale in rng.choice(config.scales, len(rows))]
    requests = [lessons.collection.whole(row) for row in rows.tolist()]
    device, workers = lessons.device, lessons.workers
    with photo_maps(network, requests, sizes, device=device, workers=workers) as maps:
        _fit_reduction(head, maps, rng)
        batches = LocalBatches(maps, rows, table.place, PairMasks(table), lessons.seen, config)
        teacher = _Teacher(head, lessons, config, seed)
        losses = teacher.teach(batches, pairs, rng) if teacher.learns else {}
        head.eval()
        head.score_quantiles.copy_(_quantiles(head, maps))
    seconds = round(time.monotonic() - started, 1)
    return LocalResult(photos=len(rows), losses=losses, seconds=seconds)


class _Teacher:
    """The losses of a head, and the classifier that some of them need, which nobody needs later."""

    def __init__(self, head: LocalHead, lessons: Lessons, config: LocalTrainingConfig, seed: int) -> None:
        self._head, self._config, self._device = head, config, lessons.device
        self._classes = np.empty(0, np.int64)
        self._classifier: nn.Module | None = None
        channels = head.reduce.in_features
        if config.weights.classes and head.attention is not None:
            self._classes, competes = pseudo_classes(
                lessons.collection.table, lessons.candidates, config.class_images, seed
            )
            self._competes = torch.from_numpy(competes).to(self._device)
            self._classifier = _classifier(config, channels, len(competes), seed).to(self._device)
        self._learned = [
            weight
            for module in (head, self._classifier)
            if module is not None
            for weight in module.parameters()
            if weight.requires_grad
        ]

    @property
    def learns(self) -> bool:
        """Whether there is anything in the head that learns."""
        return bool(self._learned)

    def teach(
        self, batches: LocalBatches, pairs: Int[np.ndarray, "t 2"], rng: np.random.Generator
    ) -> dict[str, tuple[float, ...]]:
        """Learn for the epochs of the settings; returns the mean of each loss in each."""
        config = self._config
        optimizer = torch.optim.Adam(self._learned, lr=config.learning_rate)
        steps = -(-len(pairs) // config.batch_pairs)
        schedule = torch.optim.lr_scheduler.LinearLR(
            optimizer, 1.0, 1.0 / (config.epochs * steps), config.epochs * steps
        )
        self._head.train()
        history: dict[str, list[float]] = {}
        for epoch in range(1, config.epochs + 1):
            order = rng.permutation(len(pairs))
            sums: dict[str, float] = {}
            starts = range(0, len(pairs), config.batch_pairs)
            for start in progress(starts, desc=f"local head, epoch {epoch}", unit="step"):
                batch = batches.of(pairs[order[start : start + config.batch_pairs]], rng)
                found = self._losses(batch)
                total = torch.stack(list(found.values())).sum()
                if not total.isfinite():
                    raise ValueError(
                        f"local head, epoch {epoch}: expected a finite loss, got {float(total.detach()):g}; "
                        "lower train.local.learning_rate"
                    )
                optimizer.zero_grad()
                total.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                for name, loss in found.items():
                    sums[name] = sums.get(name, 0.0) + float(loss.detach()) / steps
            logger.info("local head, epoch %d: %s", epoch, ", ".join(f"{n} {v:.4f}" for n, v in sums.items()))
            for name, value in sums.items():
                history.setdefault(name, []).append(value)
        return {name: tuple(values) for name, values in history.items()}

    def _losses(self, batch: LocalBatch) -> dict[str, Tensor]:
        """The losses that count, each times its weight, of this step."""
        weights, config, device = self._config.weights, self._config, self._device
        x = batch.x.to(device)
        maps = self._head(x)
        scores = maps.scores[0, :, 0]
        found: dict[str, Tensor] = {}
        if maps.reconstruction is not None and weights.reconstruction:
            found["reconstruction"] = weights.reconstruction * reconstruction_loss(maps.reconstruction, x)
        if maps.reconstruction is not None and weights.tracks:
            descriptors = maps.descriptors[0, :, :, 0].T
            a, b = (descriptors[batch.points[:, side].to(device)] for side in (0, 1))
            correspondence = correspondence_loss(a, b, batch.competes.to(device), config.temperature)
            found["tracks"] = weights.tracks * correspondence
        if self._head.attention is not None and weights.geometry:
            worth, worthless = batch.worth.to(device), batch.worthless.to(device)
            found["geometry"] = weights.geometry * attended_loss(scores, worth, worthless)
        if self._head.attention is not None and (weights.tuples or weights.classes):
            pooled = torch.cat(
                [attention_pooled(x[:, :, one], maps.scores[:, one]) for one in batch.of_photo]
            )
            if weights.tuples:
                matching, apart = batch.matching.to(device), batch.apart.to(device)
                found["tuples"] = weights.tuples * pooled_loss(pooled, matching, apart, config.tuple_margin)
            if self._classifier is not None:
                labels = torch.from_numpy(self._classes[batch.rows]).to(device)
                known = labels >= 0
                loss = self._classifier(pooled[known], labels[known], self._competes)
                found["classes"] = weights.classes * loss.sum() / known.sum().clamp(min=1)
        return found or {"nothing": scores.sum() * 0.0}


def _classifier(config: LocalTrainingConfig, channels: int, num_classes: int, seed: int) -> nn.Module:
    if config.classifier == "softmax":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return PlainHead(channels, num_classes)
    return MarginHead(config.classifier, channels, num_classes, config.margin, seed)


def _fit_reduction(head: LocalHead, maps: Sequence[PhotoMap], rng: np.random.Generator) -> None:
    """Compute the projection of a head whose projection is not learned, from places of these maps."""
    if head.expand is not None:
        return
    drawn = []
    for one in maps:
        with torch.inference_mode():
            places = head.reducible(_as_map(one, head.reduce.weight.device))[0].flatten(1).T.cpu().numpy()
        drawn.append(places[rng.permutation(len(places))[:_PLACES_OF_A_PHOTO]])
    whitening = pca_whitening(np.concatenate(drawn))
    if head.config.reduction == "pca":
        lengths = np.linalg.norm(whitening.projection, axis=1, keepdims=True)
        whitening = with_values(whitening, projection=whitening.projection / lengths)
    set_to_whitening(head.reduce, whitening, what="local head")


def _quantiles(head: LocalHead, maps: Sequence[PhotoMap]) -> Float[Tensor, " q"]:
    """Percentiles of the scores of all places of these maps."""
    with torch.inference_mode():
        scores = [head(_as_map(one, head.reduce.weight.device)).scores.flatten().cpu() for one in maps]
    percents = torch.linspace(0.0, 1.0, NUM_QUANTILES, dtype=torch.float64)
    return torch.quantile(torch.cat(scores).double(), percents).float()


def _as_map(one: PhotoMap, device: torch.device) -> Float[Tensor, "1 c h w"]:
    rows = torch.from_numpy(one.activations.astype(np.float32)).to(device)
    return rows.T.reshape(1, -1, one.height, one.width)
