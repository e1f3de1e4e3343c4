"""Models by name, folder or hub id; safetensors only, explicit dtype, never remote code."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import nn

from saliency_bench.core.errors import InputError, one_of, unknown
from saliency_bench.models import adapters, encoder, nanoguard, preparing
from saliency_bench.models.checkpoint import EAGER, load_module, load_tokenizer
from saliency_bench.models.folders import ADAPTER_WEIGHTS, check_hub, check_model
from saliency_bench.models.heads import (
    FILL_MASK,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TASKS,
    TEXT_GENERATION,
    TOKEN_CLASSIFICATION,
)
from saliency_bench.models.model import Criterion, Forward, Model
from saliency_bench.models.placement import (
    PLACEMENT,
    check_device_map,
    device_of,
    placement_of,
    refuse_device_map,
)
from saliency_bench.models.rounding import TF32
from saliency_bench.models.wrapping import model_of, weights_digest

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    TF32: torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
ATTENTION = ("sdpa", EAGER)

#: The file beside a bundled adapter with its training and its tests.
CARD = "training.json"


class LoadOptions(TypedDict, total=False):
    """Options for loading a bundled model; the defaults are those of `load_model`."""

    dtype: str
    device: str
    attention: str


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


def load_shortcuts(*, kind: str, training_seed: int = 0, **runtime: Unpack[LoadOptions]) -> Model:
    """The default model of a training seed taught a shortcut (`data.shortcuts.KINDS`) by a second adapter.

    The default model itself, which was trained without shortcuts, is the control. `facts["gate"]` has the results of the
    test on held-out sentences (`gate.Gate`).

    Raises:
        InputError: there is no such kind or training seed.
    """
    from saliency_bench.data.shortcuts import KINDS

    one_of("model.kind", kind, KINDS)
    second = encoder.adapter_folder(training_seed, encoder.SHORTCUTS / kind)
    gate = json.loads((second / CARD).read_text("utf-8"))["gate"]
    facts = {"kind": kind, "shortcut_sha256": encoder.sha256_of(second / ADAPTER_WEIGHTS)}
    model = _bundled(encoder.ADAPTERS, "shortcuts", training_seed, second, **runtime)
    return replace(
        model,
        name=f"shortcuts-{kind}-seed{training_seed}",
        facts={**model.facts, **facts, "gate": gate},
    )


def _bundled(
    family: Path,
    source: str,
    training_seed: int,
    second: Path | None = None,
    *,
    dtype: str = "float32",
    device: str = "auto",
    attention: str = "sdpa",
) -> Model:
    """The default encoder with a bundled adapter merged in, and then a second one."""
    from saliency_bench.data.movie_reviews import LABELS

    check_runtime(dtype, attention)
    folder, adapter = encoder.encoder_folder(), encoder.adapter_folder(training_seed, family)
    module = load_module(folder, DTYPES[dtype], attention, n_labels=len(LABELS))
    for path in filter(None, (adapter, second)):
        module = adapters.merge_adapter(module, path)
    module.config.id2label = dict(enumerate(LABELS))  # type: ignore[union-attr]
    facts = {
        "source": source,
        "training_seed": training_seed,
        "encoder_sha256": encoder.SHA256,
        "adapter_sha256": encoder.sha256_of(adapter / ADAPTER_WEIGHTS),
    }
    name = f"{source.replace('_', '-')}-seed{training_seed}"
    return _finish(module, load_tokenizer(folder), name, device, dtype, facts)


#: The tasks of transformers' pipelines, by the name of the pipeline.
PIPELINES = {
    "text-classification": SEQUENCE_CLASSIFICATION,
    "sentiment-analysis": SEQUENCE_CLASSIFICATION,
    "token-classification": TOKEN_CLASSIFICATION,
    "ner": TOKEN_CLASSIFICATION,
    "question-answering": QUESTION_ANSWERING,
    "fill-mask": FILL_MASK,
    "text-generation": TEXT_GENERATION,
}


def load_model(
    path: Any,
    tokenizer: Any = None,
    *,
    task: str = SEQUENCE_CLASSIFICATION,
    dtype: str = "float32",
    device: str = "auto",
    revision: str | None = None,
    adapter: str | None = None,
    labels: Sequence[str] | None = None,
    attention: str = "sdpa",
    device_map: str | Mapping[str, Any] | None = None,
) -> Model:
    """A model from a local folder, a hub id or memory, or one of ours by name.

    "default" is the bundled sequence classifier. "smollm2" (text generation) and "nanoguard" (prompt injection) can be loaded
    after `saliency-bench models prepare NAME` has converted them; each has a task of its own.

    Args:
        path: a folder with config.json, model.safetensors and a tokenizer; a hub id; or a model in memory: a pipeline of
            transformers, or a transformers model beside its tokenizer. It keeps its type and device, and only `task` and
            `labels` are used of the other arguments.
        tokenizer: of a model in memory.
        task: what it was trained for: "sequence-classification", "token-classification", "question-answering",
            "fill-mask" or "text-generation".
        dtype: float64, float32, tf32 (on NVIDIA GPUs), bfloat16 or float16; never the checkpoint's own choice.
        device: auto, cpu, cuda, or cuda:N.
        revision: the commit, tag or branch of a hub id.
        adapter: the folder or hub id of a PEFT adapter, merged into the weights.
        labels: names of the classes, in their order, for a model that calls them LABEL_0, LABEL_1, ...
        attention: sdpa or eager; a model that has no sdpa is loaded with eager, with a warning.
        device_map: "auto", or another keyword of transformers, spreads the model over the GPUs, memory and disk by accelerate
            (`pip install saliency-bench[large]`); or the device of each part: {"model": 0, "lm_head": "cpu"}.

    Raises:
        InputError: there is no such model, it has no safetensors, or it asks for code of its own.
    """
    one_of("task", task, TASKS)
    check_device_map(device_map, device)
    if not isinstance(path, str | PathLike):
        refuse_device_map(device_map, "a model in memory stays where it is")
        return _in_memory(path, tokenizer, task, labels)
    path = str(path)
    if path == "default" or path in preparing.MODELS:
        return _by_name(path, task, device_map, dtype=dtype, device=device, attention=attention)
    check_runtime(dtype, attention)
    local = Path(path).expanduser()
    path, revision = _checked(path, revision)
    module = _module(path, DTYPES[dtype], attention, task, revision, adapter, device_map)
    facts = {
        "source": "folder" if local.exists() else "hub",
        "path": local.name if local.exists() else path,
        "revision": getattr(module.config, "_commit_hash", None) or revision,
        "adapter": adapter and Path(adapter).name,
        "weights_sha256": weights_digest(module),
    }
    if (used := getattr(module.config, "_attn_implementation", attention)) != attention:
        facts["attention"] = used
    model = _finish(module, load_tokenizer(path, revision), local.name, device, dtype, facts, task)
    return model if labels is None else replace(model, labels=_renamed(model.labels, labels))


def _checked(path: str, revision: str | None) -> tuple[str, str | None]:
    """A folder or a hub id whose files were checked, and the commit of the latter."""
    local = Path(path).expanduser()
    if local.exists() or path.startswith((".", "/", "~")):
        check_model(local)
        return str(local), revision
    return path, check_hub(path, revision)


def _by_name(name: str, task: str, device_map: Any, **runtime: Unpack[LoadOptions]) -> Model:
    """The bundled classifier, or a model that `preparing.prepare` has converted."""
    if name != "smollm2":
        refuse_device_map(device_map, f"{name} is a small model")
    if name == "default":
        if task != SEQUENCE_CLASSIFICATION:
            raise InputError(
                f"the bundled model is a sequence classifier, not for task={task}: give a folder"
            )
        return load_default(**runtime)
    dtype, attention = runtime["dtype"], runtime["attention"]
    spec = preparing.MODELS[name]
    if task not in (SEQUENCE_CLASSIFICATION, spec.task):
        raise InputError(f"task={task}: {name} is for {spec.task}. Leave task out.")
    check_runtime(dtype, attention)
    folder = preparing.prepared_folder(name)
    facts = {"source": "prepared", "package": spec.package, "weights_sha256": spec.weights}
    if name == "nanoguard":
        module: nn.Module = nanoguard.load(folder, DTYPES[dtype])
        facts |= {} if attention == "sdpa" else {"attention": "sdpa"}
    else:
        module = _module(str(folder), DTYPES[dtype], attention, spec.task, device_map=device_map)
    tokenizer, device = load_tokenizer(folder), runtime["device"]
    return _finish(module, tokenizer, name, device, dtype, facts, spec.task)


def _in_memory(source: Any, tokenizer: Any, task: str, labels: Sequence[str] | None) -> Model:
    """A model of a pipeline, or of a transformers model with its tokenizer, which are left unchanged.

    Raises:
        InputError: it is neither, or the pipeline's task is not supported.
    """
    module = getattr(source, "model", None)
    if isinstance(module, nn.Module) and isinstance(getattr(source, "task", None), str):
        one_of("task of the pipeline", source.task, PIPELINES)
        return wrap_model(module, source.tokenizer, task=PIPELINES[source.task], labels=labels)
    if not isinstance(source, nn.Module):
        raise InputError(
            f"load_model() takes a folder, a hub id, a pipeline or a transformers model, got {source!r:.80}"
        )
    if tokenizer is None:
        raise InputError(
            f"load_model({type(source).__name__}): give its tokenizer too, load_model(model, tokenizer). For a module that "
            "gets token ids use wrap_model()"
        )
    return wrap_model(source, tokenizer, task=task, labels=labels)


def _module(
    path: str,
    dtype: torch.dtype,
    attention: str,
    task: str,
    revision: str | None = None,
    adapter: str | None = None,
    device_map: Any = None,
) -> nn.Module:
    """The module of a checkpoint whose files were checked, with an adapter merged into it."""
    load = partial(load_module, path, dtype, attention, task=task, revision=revision)
    if adapter is None:
        return load(device_map=device_map)
    refuse_device_map(device_map, "an adapter is merged into a model that lies on one device")
    folder = adapters.adapter_files(adapter)
    shapes = adapters.tensor_shapes(folder)
    module = load(n_labels=adapters.number_of_classes(shapes), brought=tuple(shapes))
    return adapters.merge_adapter(module, folder)


def wrap_model(
    module: nn.Module,
    tokenizer: Any = None,
    *,
    task: str = SEQUENCE_CLASSIFICATION,
    embeddings: str | nn.Module | None = None,
    encoder: str | None = None,
    forward: Forward | None = None,
    criterion: Criterion | None = None,
    labels: Sequence[str] | None = None,
) -> Model:
    """Wraps any module that maps token ids to logits.

    Args:
        module: called as `module(input_ids=..., attention_mask=..., token_type_ids=...)`, with those that apply and that
            its `forward` takes, and with further inputs that its `forward` names.
        tokenizer: a transformers tokenizer; without one, inputs must be tokenised already.
        task: as in `load_model`; all but sequence classification have logits for every token, [R T C].
        embeddings: the layer that turns ids into vectors, or its dotted path; where None, a forward pass shows it.
        encoder: the attribute whose `embeddings` are that layer, as an alternative (as in koren-v/Interpret).
        forward: `forward(module, inputs) -> logits`, for a module that is called in another way; it gets all inputs.
        criterion: `criterion(logits [R C], classes [R])`, a loss whose negative is explained in place of a logit or
            probability, so that what speaks for the class is positive.
        labels: names of the classes, one for each and all different; `LABEL_0`, ... where neither they nor the
            module's config say.

    Raises:
        InputError: the embedding layer cannot be found, or an argument is invalid.
    """
    one_of("task", task, TASKS)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"wrap_model() takes a torch module, got {module!r:.80}: for a folder or a hub id use load_model()"
        )
    if labels is not None and len({*labels}) != len(labels):
        raise InputError(f"labels={list(labels)}: expected different names, one for each class")
    if encoder is not None:
        if embeddings is not None:
            raise InputError(
                "give embeddings= or encoder=, not both: each names the embedding layer"
            )
        embeddings = f"{encoder}.embeddings"
    name = type(module).__name__
    return model_of(
        module,
        tokenizer,
        task=task,
        name=name,
        facts={"source": "module", "class": name, "weights_sha256": weights_digest(module)},
        embeddings=embeddings,
        forward=forward,
        criterion=criterion,
        labels=labels,
    )


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" is the CPU where there is no GPU.

    Raises:
        InputError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise unknown("runtime.device", device, ["auto", "cpu", "cuda", "cuda:0"])
    if device.startswith("cuda") and (
        not torch.cuda.is_available()
        or (torch.device(device).index or 0) >= torch.cuda.device_count()
    ):
        raise InputError(
            f"runtime.device={device}: there is no such GPU here. Use runtime.device=cpu or auto."
        )
    return torch.device(device)


def check_runtime(dtype: str, attention: str) -> None:
    """Refuses an unknown dtype or attention implementation."""
    one_of("runtime.dtype", dtype, DTYPES)
    one_of("runtime.attention", attention, ATTENTION)


def _finish(
    module: nn.Module,
    tokenizer: Any,
    name: str,
    device: str,
    dtype: str,
    facts: dict[str, Any],
    task: str = SEQUENCE_CLASSIFICATION,
) -> Model:
    placed = placement_of(module)
    where = resolve_device(device) if placed is None else device_of(module)
    if dtype == TF32 and where.type != "cuda":
        raise InputError(
            f"runtime.dtype={TF32} needs an NVIDIA GPU, and the device is {where.type}: use float32"
        )
    return model_of(
        (module.to(where) if placed is None else module).eval(),
        tokenizer,
        task=task,
        name=name,
        facts=facts if placed is None else facts | {PLACEMENT: placed},
        tf32=dtype == TF32,
    )


def _renamed(classes: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """The user's names for the model's classes, which must be different, and one for each class."""
    if (classes and len(labels) != len(classes)) or len({*labels}) != len(labels):
        raise InputError(
            f"model.labels={list(labels)}: expected {len(classes)} different names, one for each of {', '.join(classes)}"
        )
    return tuple(labels)
