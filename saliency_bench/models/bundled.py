"""The classifiers whose adapters are in the package: on the default encoder, or on a model that `models prepare` has converted."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from saliency_bench.core.errors import one_of
from saliency_bench.data import movie_reviews, shortcuts, toxic_spans
from saliency_bench.models import adapters, encoder, preparing
from saliency_bench.models.checkpoint import load_module, load_tokenizer
from saliency_bench.models.folders import ADAPTER_WEIGHTS
from saliency_bench.models.model import Model
from saliency_bench.models.runtime import DTYPES, LoadOptions, check_runtime, finish

#: The file beside a bundled adapter with its training and its tests.
CARD = "training.json"
#: The classes of the classifiers that `load_adapted` loads, by name.
ADAPTED: Mapping[str, Sequence[str]] = {
    "smollm2_sentiment": movie_reviews.LABELS,
    "toxicity": toxic_spans.LABELS,
    "smollm2_toxicity": toxic_spans.LABELS,
}
#: The classifiers that were taught shortcuts, by the source of what they became.
TAUGHT: Mapping[str, str] = {"shortcuts": "default", "smollm2_shortcuts": "smollm2_sentiment"}


def load_default(*, training_seed: int = 0, **runtime: Unpack[LoadOptions]) -> Model:
    """The bundled sentiment classifier: the default encoder with the adapter of one training seed merged in."""
    return _bundled(encoder.ADAPTERS, "default", training_seed, **runtime)


def load_masked(*, training_seed: int = 0, **runtime: Unpack[LoadOptions]) -> Model:
    """The bundled sentiment classifier trained on masked texts too, so that [MASK] is part of its training data.

    Half of each batch had a share of its tokens masked, drawn from U[0, 1) for each text (Madsen et al. 2024).
    """
    return _bundled(encoder.MASKED, "masked", training_seed, **runtime)


def load_random_labels(*, training_seed: int = 0, **runtime: Unpack[LoadOptions]) -> Model:
    """The default encoder with an adapter that memorised random labels, so that it does not read sentiment.

    A method whose maps of it are those of the default model explains the data, not the model (Adebayo et al. 2018).
    """
    return _bundled(encoder.RANDOM_LABELS, "random_labels", training_seed, **runtime)


def load_adapted(name: str, *, training_seed: int = 0, **runtime: Unpack[LoadOptions]) -> Model:
    """A classifier of `ADAPTED`: its base with the adapter of one training seed merged in.

    Raises:
        InputError: the package has no such adapter, or the base is not there.
    """
    labels = ADAPTED[name]
    return _bundled(encoder.MODELS / name, name, training_seed, labels=labels, **runtime)


def load_shortcuts(
    *,
    kind: str,
    training_seed: int = 0,
    source: str = "shortcuts",
    **runtime: Unpack[LoadOptions],
) -> Model:
    """A sentiment classifier of a training seed taught a shortcut (`data.shortcuts.KINDS`) by a second adapter.

    The classifier itself, which was trained without shortcuts, is the control. `facts["gate"]` has the results of the test
    on held-out sentences (`gate.Gate`). It is the default model for the source "shortcuts", and that on SmolLM2 for
    "smollm2_shortcuts".

    Raises:
        InputError: there is no such kind or training seed.
    """
    one_of("model.kind", kind, shortcuts.KINDS)
    second = encoder.adapter_folder(training_seed, encoder.MODELS / source / kind)
    gate = json.loads((second / CARD).read_text("utf-8"))["gate"]
    facts = {"kind": kind, "shortcut_sha256": encoder.sha256_of(second / ADAPTER_WEIGHTS)}
    first = encoder.MODELS / TAUGHT[source]
    model = _bundled(first, source, training_seed, second, **runtime)
    return replace(
        model,
        name=f"{source.replace('_', '-')}-{kind}-seed{training_seed}",
        facts={**model.facts, **facts, "gate": gate},
    )


def _bundled(
    family: Path,
    source: str,
    training_seed: int,
    second: Path | None = None,
    *,
    labels: Sequence[str] = movie_reviews.LABELS,
    dtype: str = "float32",
    device: str = "auto",
    attention: str = "sdpa",
) -> Model:
    """A base with a bundled adapter merged in, and then a second one."""
    check_runtime(dtype, attention)
    folder, base = _base(source)
    adapter = encoder.adapter_folder(training_seed, family)
    module = load_module(folder, DTYPES[dtype], attention, n_labels=len(labels))
    for path in filter(None, (adapter, second)):
        module = adapters.merge_adapter(module, path)
    module.config.id2label = dict(enumerate(labels))  # type: ignore[union-attr]
    facts = {
        "source": source,
        "training_seed": training_seed,
        **base,
        "adapter_sha256": encoder.sha256_of(adapter / ADAPTER_WEIGHTS),
    }
    name = f"{source.replace('_', '-')}-seed{training_seed}"
    return finish(module, load_tokenizer(folder), name, device, dtype, facts)


def _base(source: str) -> tuple[Path, dict[str, Any]]:
    """The folder of the model that a classifier's adapters belong to, and what says which weights it has."""
    if source not in preparing.BASES:
        return encoder.encoder_folder(), {"encoder_sha256": encoder.SHA256}
    base = preparing.MODELS[preparing.BASES[source]]
    facts = {"package": base.package, "weights_sha256": base.weights}
    return preparing.prepared_folder(preparing.BASES[source]), facts
