"""The configuration of a study as dataclasses: the schema that the command line is checked against."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ModelConfig:
    """The model that is explained; `name` says how it is loaded."""

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
class AdaptedModel(DefaultModel):
    """A classifier whose adapter is in the package, on the bundled encoder or on a prepared model."""


@dataclass
class ShortcutModel(DefaultModel):
    """The bundled sentiment classifier, or that on SmolLM2, taught a kind of shortcut."""

    kind: str


@dataclass
class HubModel(ModelConfig):
    """A local folder or hub id, with an optional PEFT adapter."""

    path: str
    task: str
    revision: str | None
    labels: list[str] | None
    adapter: str | None


@dataclass
class PreparedModel(ModelConfig):
    """A model that `saliency-bench models prepare` has converted."""

    task: str


@dataclass
class MemoryModel(ModelConfig):
    """A model that was loaded before the study, from Python."""

    task: str


@dataclass
class Evaluation:
    """The curves that faithfulness metrics read."""

    removal: Any
    granularity: str
    output: str
    ranking: str


@dataclass
class Agreement:
    """Agreement of methods with each other: its metrics, its units, and the share of units at the top."""

    metrics: Any
    granularity: str
    k: float
    p: float


@dataclass
class Convergence:
    """The check of approximate settings against converged ones, and its limits."""

    n_examples: int
    largest_gap: float
    smallest_tau: float
    reference_steps: int | None
    reference_samples: int | None


@dataclass
class Timing:
    """Timing of settings, apart from the study itself."""

    enabled: bool
    n_examples: int
    n_repeats: int
    n_warmup: int


@dataclass
class Statistics:
    """Intervals, and what is fixed in advance: the metric entry, and which method entries are compared with which."""

    endpoint: str | None
    reference: str | None
    pairs: Any
    test: str
    confidence: float
    n_resamples: int


@dataclass
class Choose:
    """The split on which a sweep chooses its best setting, and the metric entry it chooses by."""

    split: str | None
    n_examples: int
    metric: str


@dataclass
class Report:
    """Contents of the page besides tables and figures."""

    n_examples: int


@dataclass
class Runtime:
    """Device, type, memory and workers of the computation."""

    device: str
    dtype: str
    threads: int | None
    token_budget: Any
    attention: str
    executor: dict[str, Any]  # by which blocks are computed: conf/runtime/
    device_map: Any = None


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
