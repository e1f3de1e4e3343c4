"""`saliency-bench validate`: our numbers against Captum's, on several models in float32 and float64; conf/validate.yaml."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from saliency_bench.core.errors import ValidationError
from saliency_bench.data import DATASETS
from saliency_bench.experiments.parity.pairs import (
    BIASED,
    DIFFERS,
    Comparison,
    ParityModel,
    compared,
    settings_of,
)
from saliency_bench.experiments.parity.premises import Premise, premises
from saliency_bench.experiments.parity.report import (
    complaint,
    long_table,
    premises_table,
    report_of,
)
from saliency_bench.experiments.random_models import ARCHITECTURES, random_model, random_texts
from saliency_bench.experiments.scaffold import (
    Config,
    Experiment,
    ExperimentOptions,
    Outcome,
    Progress,
    quiet,
)
from saliency_bench.models import loading
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encode
from saliency_bench.report.formats import to_csv
from saliency_bench.studies.block import opened_blocks
from saliency_bench.studies.budget import ON_CPU

NO_MODEL = "none"


def measure(options: ExperimentOptions, progress: Progress = quiet) -> Outcome:
    """Compares every pair on every model.

    Raises:
        InputError: the model does not load.
    """
    config = options.config
    models: dict[str, dict[str, Any]] = {}
    comparisons: list[Comparison] = []
    shared: list[Premise] = []
    progress("loading the model", 0, 0)
    for subject in _subjects(config):
        models.setdefault(subject.name, dict(subject.model.facts) | {"dtypes": []})
        models[subject.name]["dtypes"].append(subject.dtype)
        shared += premises_of(subject)
        comparisons += compared(subject, config, progress)
    verdicts = [comparison.verdict for comparison in comparisons]
    facts = {
        "models": models,
        "n_pairs": len(comparisons),
        "n_differ": verdicts.count(DIFFERS),
        "n_known_bias": verdicts.count(BIASED),
        "n_premises": len(shared),
        "n_broken_premises": sum(not premise.holds for premise in shared),
        "derived_in": "saliency_bench.attribution.parity",
    }
    computation = {
        "device": "cpu",
        "dtypes": list(config["dtypes"]),
        "threads": torch.get_num_threads(),
        "token_budget": ON_CPU,
    }
    wrong = complaint(comparisons, shared)
    return Outcome(
        report_of(comparisons, shared),
        {
            "parity.csv": to_csv(long_table(comparisons)).encode(),
            "premises.csv": to_csv(premises_table(shared)).encode(),
        },
        facts,
        computation,
        None if wrong is None else ValidationError(wrong),
    )


def premises_of(subject: ParityModel) -> list[Premise]:
    """Checks of what our numbers and Captum's share, on the first block of texts.

    Captum's own noise takes many gradients: it is asked for on the small random models alone, in float64.
    """
    refs = References(subject.model)
    captums_noise = subject.random and subject.dtype == "float64"
    with subject.model.frozen():
        _, block = next(opened_blocks(refs, subject.encoded, "predicted", ON_CPU))
        return premises(block, subject.name, subject.dtype, captums_noise)


def _subjects(config: Config) -> Iterator[ParityModel]:
    n, seed = config["n_examples"], config["seed"]
    if config["model"] != NO_MODEL:
        examples = DATASETS["movie_reviews"](split="test")[:n]
        for dtype in config["dtypes"]:
            model = loading.load_model(config["model"], dtype=dtype, device="cpu")
            yield ParityModel(model.name, dtype, model, encode(model, examples))
    for architecture in config["random_models"]:
        for dtype in config["dtypes"]:
            model = random_model(architecture, dtype, seed)
            texts = random_texts(model, n, config["n_tokens"], seed)
            yield ParityModel(f"random {architecture}", dtype, model, texts, random=True)


EXPERIMENT = Experiment(
    name="validate",
    out=Path("results") / "validate",
    measure=measure,
    choices={"random_models": lambda: ARCHITECTURES, "dtypes": lambda: loading.DTYPES},
    check=lambda config: list(settings_of(config)),
)
