"""The configuration: its schema, its composition by Hydra, its checks, and the settings it asks for.

Only this module, `hydra_words` and `cli` know Hydra. Nothing is instantiated from a configuration: names are looked up in the
registries, and everything else is data.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from saliency_bench import conf_files
from saliency_bench.checks import as_list, settings, validate
from saliency_bench.config_errors import readable, unknown_key
from saliency_bench.errors import InputError, one_of
from saliency_bench.hydra_words import as_hydra_reads

__all__ = [
    "Config",
    "from_hydra",
    "load",
    "readable",
    "register",
    "settings",
    "validate",
]


@dataclass
class ModelConfig:
    """What is explained; `name` says how it is loaded."""

    name: str


@dataclass
class DefaultModel(ModelConfig):
    """The bundled model, as trained from one seed."""

    training_seed: int


@dataclass
class MaskedModel(DefaultModel):
    """The bundled model trained on masked texts too."""


@dataclass
class RandomLabelsModel(DefaultModel):
    """The bundled encoder with labels learnt by heart that were dealt at random."""


@dataclass
class ShortcutModel(DefaultModel):
    """The bundled model taught a kind of shortcut."""

    kind: str


@dataclass
class HubModel(ModelConfig):
    """A local folder or hub id, with an optional PEFT adapter."""

    path: str
    task: str
    revision: str | None
    labels: list[str] | None
    adapter: str | None


#: The schema of each `model.name`.
MODELS: Mapping[str, type[ModelConfig]] = {
    "default": DefaultModel,
    "masked": MaskedModel,
    "random_labels": RandomLabelsModel,
    "shortcuts": ShortcutModel,
    "hub": HubModel,
}


@dataclass
class Evaluation:
    """How the curves are made that faithfulness metrics read."""

    removal: Any
    granularity: str
    output: str
    ranking: str


@dataclass
class Agreement:
    """How far methods agree with each other: by which metrics, on which units, and at which top."""

    metrics: Any
    granularity: str
    k: float
    p: float


@dataclass
class Convergence:
    """How approximate settings are checked against converged ones, and what they are held to."""

    n_examples: int
    largest_gap: float
    smallest_tau: float
    reference_steps: int | None
    reference_samples: int | None


@dataclass
class Timing:
    """What is timed, apart from the study itself."""

    enabled: bool
    n_examples: int
    n_repeats: int
    n_warmup: int


@dataclass
class Statistics:
    """Intervals, the metric entry fixed in advance, and the method entry that the others are compared with."""

    endpoint: str | None
    reference: str | None
    test: str
    confidence: float
    n_resamples: int


@dataclass
class Choose:
    """Where and by which metric entry a sweep chooses its best setting; nowhere without a split."""

    split: str | None
    n_examples: int
    metric: str


@dataclass
class Report:
    """What the page shows besides tables and figures."""

    n_examples: int


@dataclass
class Runtime:
    """How it is computed."""

    device: str
    dtype: str
    threads: int | None
    token_budget: Any
    attention: str
    executor: dict[str, Any]  # who computes blocks: conf/runtime/


@dataclass
class Config:
    """One study. Values and their meaning: conf/config.yaml.

    `data`, `method` and `metric` are checked against the signatures of what they name, by `validate`.
    """

    name: str
    model: ModelConfig
    data: dict[str, Any]
    n_examples: int
    seed: int
    target: str
    output: str
    backend: Any
    too_long: str
    evaluation: Evaluation
    agreement: Agreement
    convergence: Convergence
    timing: Timing
    statistics: Statistics
    choose: Choose | None
    report: Report
    runtime: Runtime
    out: str | None
    method: dict[str, dict[str, Any]] = field(default_factory=dict)  # empty where none is selected
    metric: dict[str, dict[str, Any]] = field(default_factory=dict)


def register() -> None:
    """Makes the schema known to Hydra under the names that conf/ uses."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, model in MODELS.items():
        store.store(group="model", name=f"{name}_schema", node=model)


def load(overrides: Sequence[str] = ()) -> Config:
    """The configuration that the command line would have with these overrides, not yet validated.

    Raises:
        InputError: an override is not understood, or a key or a type is wrong.
    """
    register()
    words = as_hydra_reads(overrides)
    try:
        with (
            refusing_absent_folders(),
            initialize_config_dir(str(conf_files.folder()), version_base="1.3"),
        ):
            node = compose("config", words)
    except Exception as error:  # Hydra lets builtin exceptions through; composing does nothing else
        raise InputError(readable(error, Config)) from error
    return from_hydra(node)


@contextmanager
def refusing_absent_folders() -> Iterator[None]:
    """Hydra warns of a folder in its search path that is not there, and goes on without what was wanted of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "provider=.* is not available", UserWarning)
        yield


def from_hydra(node: DictConfig) -> Config:
    """A composed configuration as plain objects, interpolations resolved and what is implied written out."""
    try:
        _refuse_targets(OmegaConf.to_container(node, resolve=False))
        _refuse_other_keys(node)
        if missing := sorted(OmegaConf.missing_keys(node)):
            raise InputError(f"{missing[0]} is missing. Give it: {missing[0]}=VALUE")
        cfg = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise InputError(readable(error, Config)) from error
    except RecursionError as error:
        raise InputError("a value refers to itself through ${...}. Break the circle.") from error
    assert isinstance(cfg, Config)
    _refuse_another_model(cfg.model)
    cfg.backend = as_list(cfg.backend)
    cfg.evaluation.removal = as_list(cfg.evaluation.removal)
    cfg.agreement.metrics = as_list(cfg.agreement.metrics)
    if cfg.choose is not None and cfg.choose.split is None:
        cfg.choose = None
    if cfg.statistics.reference is None:
        cfg.statistics.reference = next(iter(cfg.method), None)
    return cfg


def from_plain(plain: Mapping[str, Any]) -> Config:
    """The configuration that a run folder holds, as data: checked against the schema, and nothing in it is called.

    Raises:
        InputError: it is none.
    """
    if "${" in str(plain):
        raise InputError("the configuration holds ${...}, which a finished configuration has not.")
    model = plain.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    one_of("model.name", name, MODELS)
    schema = OmegaConf.structured(Config)
    try:
        schema.model = OmegaConf.structured(MODELS[cast(str, name)])
        return from_hydra(cast(DictConfig, OmegaConf.merge(schema, dict(plain))))
    except OmegaConfBaseException as error:
        raise InputError(readable(error, Config)) from error


def _refuse_other_keys(node: DictConfig, key: str = "") -> None:
    """Refuses keys that `+` puts beside those of a schema, since nobody would read them, and a lack of those that `~` removes."""
    kind = OmegaConf.get_type(node)
    known = [one.name for one in fields(kind)] if is_dataclass(kind) else None
    for name in known or ():
        if name not in node:
            raise InputError(f"{key}{name} is missing. Remove ~{key}{name}.")
    for name in map(str, node):
        if known is not None and name not in known:
            raise InputError(unknown_key(f"{key}{name}", Config))
        if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name):
            continue
        if isinstance(node[name], DictConfig):
            _refuse_other_keys(node[name], f"{key}{name}.")


def _refuse_another_model(model: ModelConfig) -> None:
    """`model.name` goes with the keys beside it, which the file that is chosen for `model` has."""
    one_of("model.name", model.name, MODELS)
    if type(model) is not MODELS[model.name]:
        own = next(name for name, kind in MODELS.items() if kind is type(model))
        raise InputError(
            f"model.name={model.name}: what is chosen for model is {own}, which has other keys. Choose the other by "
            f"model={model.name}."
        )


def _refuse_targets(value: Any, key: str = "") -> None:
    """A configuration is data: what Hydra would instantiate has no place in it, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "_target_":
                raise InputError(
                    f"{key}{name}: a configuration names parts, it does not call code. Remove it."
                )
            _refuse_targets(inner, f"{key}{name}.")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_targets(inner, f"{key}{index}.")
