"""The option --rerank as a person writes it, to its settings."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from cnnimretrieval.search.diffusion import DiffusionConfig
from cnnimretrieval.search.expansion import AugmentationConfig, ExpansionConfig
from cnnimretrieval.search.rerank import RerankConfig
from cnnimretrieval.search.spatial import SpatialConfig
from experiments.exit_codes import UsageFault
from experiments.settings.errors import did_you_mean
from experiments.settings.protocol import Protocol
from groundwork.settings import Settings, first_fault

_STEPS: Mapping[str, type[Settings]] = {
    "dba": AugmentationConfig,
    "qe": ExpansionConfig,
    "diffusion": DiffusionConfig,
    "spatial": SpatialConfig,
}

# Written alone, they are set.
_FLAGS = frozenset({"verified"})


def settings(given: Sequence[str]) -> RerankConfig:
    """The steps of `--rerank STEP[:KEY=VALUE,...]`, each given at most once; a step has its own order.

    Raises:
        UsageFault: an unknown step, key or value, or a step given twice.

    """
    steps: dict[str, Settings] = {}
    for text in given:
        step, colon, values = text.partition(":")
        if step not in _STEPS:
            raise UsageFault(
                f"--rerank: expected {', '.join(_STEPS)}, got '{step}'; {did_you_mean(step, _STEPS)}"
            )
        if step in steps:
            raise UsageFault(f"--rerank: expected {step} once, got it twice; leave one out")
        steps[step] = _step(step, values.split(",") if colon else [])
    try:
        return RerankConfig.model_validate(steps)
    except ValidationError as error:
        raise UsageFault(f"--rerank {first_fault(error)}") from error


def _step(step: str, parts: Sequence[str]) -> Settings:
    values: dict[str, Any] = {}
    overrides: dict[str, str] = {}
    for part in parts:
        key, equals, text = part.partition("=")
        if not equals and key in _FLAGS:
            equals, text = "=", "true"
        if not equals or not key:
            raise UsageFault(
                f"--rerank {step}: expected KEY=VALUE, got '{part}'; write it like {step}:neighbours=20"
            )
        values[key] = _value(text)
        overrides[key] = f"--rerank {step}:{part}"
    return Protocol(source="--rerank", values=values, overrides=overrides).resolve(_STEPS[step])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
