"""Models by name, folder or hub id; safetensors only, explicit dtype, never remote code."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from saliency_bench.core.errors import InputError, one_of
from saliency_bench.models import adapters, nanoguard, preparing
from saliency_bench.models.bundled import ADAPTED as ADAPTED
from saliency_bench.models.bundled import CARD as CARD
from saliency_bench.models.bundled import load_adapted as load_adapted
from saliency_bench.models.bundled import load_default as load_default
from saliency_bench.models.bundled import load_masked as load_masked
from saliency_bench.models.bundled import load_random_labels as load_random_labels
from saliency_bench.models.bundled import load_shortcuts as load_shortcuts
from saliency_bench.models.checkpoint import load_module, load_tokenizer
from saliency_bench.models.folders import check_hub, check_model
from saliency_bench.models.heads import (
    FILL_MASK,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TASKS,
    TEXT_GENERATION,
    TOKEN_CLASSIFICATION,
)
from saliency_bench.models.model import Criterion, Forward, Model
from saliency_bench.models.placement import check_device_map, refuse_device_map
from saliency_bench.models.runtime import ATTENTION as ATTENTION
from saliency_bench.models.runtime import DTYPES as DTYPES
from saliency_bench.models.runtime import LoadOptions, check_runtime, finish
from saliency_bench.models.runtime import resolve_device as resolve_device
from saliency_bench.models.wrapping import model_of, weights_digest

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
    after `saliency-bench models prepare NAME` has converted them; each has a task of its own. `saliency-bench models` lists all names.

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
    if path in ("default", *ADAPTED, *preparing.MODELS):
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
    model = finish(module, load_tokenizer(path, revision), local.name, device, dtype, facts, task)
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
    if name == "default" or name in ADAPTED:
        if task != SEQUENCE_CLASSIFICATION:
            raise InputError(f"{name} is a sequence classifier, not for task={task}: give a folder")
        return load_default(**runtime) if name == "default" else load_adapted(name, **runtime)
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
    return finish(module, tokenizer, name, device, dtype, facts, spec.task)


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


def _renamed(classes: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """The user's names for the model's classes, which must be different, and one for each class."""
    if (classes and len(labels) != len(classes)) or len({*labels}) != len(labels):
        raise InputError(
            f"model.labels={list(labels)}: expected {len(classes)} different names, one for each of {', '.join(classes)}"
        )
    return tuple(labels)
