"""The module and the tokenizer of a checkpoint: safetensors only, explicit dtype, never remote code."""

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saliency_bench.core.errors import InputError, is_out_of_memory, one_line
from saliency_bench.models import heads
from saliency_bench.models.heads import HEADS, Head
from saliency_bench.models.placement import spread
from saliency_bench.models.threads import PROCESS

EAGER = "eager"


def load_module(
    path: str | Path,
    dtype: torch.dtype,
    attention: str,
    *,
    task: str = heads.SEQUENCE_CLASSIFICATION,
    revision: str | None = None,
    n_labels: int | None = None,
    brought: Sequence[str] = (),
    device_map: str | Mapping[str, Any] | None = None,
) -> nn.Module:
    """The module of a checkpoint.

    Args:
        path: a folder or a hub id whose files were checked (see `folders`).
        dtype: of the weights.
        attention: sdpa or eager.
        task: the one that it must have been trained for.
        revision: the commit of a hub id.
        n_labels: the number of classes of a head in an adapter.
        brought: the names of an adapter's tensors, which the weights may lack.
        device_map: the devices for accelerate (see `placement`); None: the module is loaded into memory.

    Raises:
        InputError: it cannot be loaded, or was not trained for the task.
    """
    import transformers

    head = HEADS[task]
    try:
        load = partial(
            getattr(transformers, head.auto).from_pretrained,
            path,
            config=_config(path, task, revision, n_labels),
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else the error would name no tensor
        )
        with PROCESS, _quiet():
            module, report = spread(
                lambda **places: _with_attention(path, partial(load, **places), attention),
                device_map,
            )
    except Exception as error:  # invalid configurations raise errors of many types
        if is_out_of_memory(error):
            _refuse_other_shapes(path, load, attention)
        if isinstance(error, InputError) or is_out_of_memory(error):
            raise
        raise InputError(_why_not(path, error, head)) from error
    if n_labels is not None and not brought:
        report = report | {"missing_keys": ()}  # the head that an adapter is trained with
    _require_sound(path, task, module.config, report, brought)
    return module


def _config(path: str | Path, task: str, revision: str | None, n_labels: int | None) -> Any:
    """The configuration of a checkpoint that was trained for the task, or whose head is in an adapter."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    if n_labels is None:
        _require_head(path, config, task)
    else:
        config.num_labels = n_labels
    return config


def _require_sound(
    path: str | Path, task: str, config: Any, report: Mapping[str, Any], brought: Sequence[str]
) -> None:
    """Refuses a module by what transformers reports of its loading."""
    _require_shapes(path, report["mismatched_keys"])
    _require_weights(path, task, report["missing_keys"], brought)
    _warn_unused(path, report["unexpected_keys"])
    if task == heads.TEXT_GENERATION:
        _require_decoder(path, config)


def load_tokenizer(path: str | Path, revision: str | None = None) -> Any:
    """The tokenizer of a checkpoint.

    Raises:
        InputError: it cannot be loaded, or has an empty vocabulary.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare ones
        raise InputError(
            f"model.path={path} has no tokenizer that can be loaded: {one_line(error)}"
        ) from error
    # Where its files are missing, transformers 5 makes one with an empty vocabulary, and every text becomes [UNK] [UNK] ...
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(
            f"model.path={path} has a tokenizer without words: its vocabulary (tokenizer.json, vocab.txt, ...) is missing"
        )
    return tokenizer


def _with_attention(path: str | Path, load: Callable[..., Any], attention: str) -> Any:
    """The module, and transformers' report on loading it. A model without sdpa gets eager attention, with a warning."""
    try:
        return load(attn_implementation=attention)
    except ValueError as error:
        if attention == EAGER or "scaled_dot_product_attention" not in str(error):
            raise
    warnings.warn(
        f"model.path={path} has no {attention} attention: eager is used (runtime.attention=eager)",
        stacklevel=6,
    )
    return load(attn_implementation=EAGER)


def _refuse_other_shapes(path: str | Path, load: Callable[..., Any], attention: str) -> None:
    """Refuses a checkpoint whose config.json has larger tensors than its weights, after the memory ran out."""
    try:
        with PROCESS, _quiet():
            load(attn_implementation=attention, ignore_mismatched_sizes=False)
    except Exception as error:
        if is_out_of_memory(error):
            return
        raise InputError(
            f"model.path={path}: the weights do not have the shapes of its config.json, for which the memory is not enough: "
            f"{one_line(error)}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Turns off the progress bars and messages of transformers, since missing tensors are errors here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _require_shapes(path: str | Path, mismatched: Collection[tuple[str, Any, Any]]) -> None:
    """Refuses a tensor of another shape than the model's."""
    if mismatched:
        name, shape, expected = min(mismatched)
        raise InputError(
            f"model.path={path}: the tensor {name} has the shape {[*shape]}, and the model of its config.json takes "
            f"{[*expected]}. Give the config.json that the weights were saved with."
        )


def _why_not(path: str | Path, error: Exception, head: Head) -> str:
    text = " ".join(str(error).split())
    if "safetensors" in text and "truncated" not in text.lower():
        return (
            f"model.path={path} has no model.safetensors. Pickled weights are not loaded; convert them: "
            f"{head.auto}.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    return f"model.path={path} could not be loaded as a {head.what}: {one_line(error)}"


def _require_weights(
    path: str | Path, task: str, missing: Iterable[str], brought: Sequence[str]
) -> None:
    """Refuses weights that lack a tensor, unless an adapter has it."""
    # PEFT puts the path of its own modules before the name.
    lacks = sorted(
        name for name in missing if not any(tensor.endswith(f".{name}") for tensor in brought)
    )
    if lacks:
        raise InputError(
            f"model.path={path} is no trained {HEADS[task].what}: its weights lack {', '.join(lacks[:3])}. "
            f"Give a model that was trained for {task}."
        )


def _warn_unused(path: str | Path, unused: Iterable[str]) -> None:
    """Warns of weights of a checkpoint that its model does not use."""
    if names := sorted(unused):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warnings.warn(
            f"model.path={path}: the model of its config.json does not use the weights {', '.join(names[:3])}{more}. If "
            "these are layers, or a head that was trained for this task, correct config.json: the model is explained "
            "without them",
            stacklevel=5,
        )


def _require_head(path: str | Path, config: Any, task: str) -> None:
    """Refuses a model that was trained for another task; heads of the same shape would load without an error."""
    architectures = getattr(config, "architectures", None) or []
    tasks = heads.trained_for(architectures)
    if tasks is not None and task not in tasks:
        other = next(iter(tasks))
        advice = "Give a model that was trained for it" + (f", or task={other}." if other else ".")
        raise InputError(
            f"model.path={path} is no trained {HEADS[task].what} (task={task}): its config.json says "
            f"{', '.join(architectures)}. {advice}"
        )


def _require_decoder(path: str | Path, config: Any) -> None:
    """Refuses an encoder as a causal language model: its tokens attend to those after them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    may_be_encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if may_be_encoder and getattr(config, "is_decoder", True) is False:
        raise InputError(
            f"model.path={path} is an encoder ({config.model_type}, is_decoder=false in its config.json), whose tokens "
            "read what comes after them: expected a decoder. Give a causal language model, or task=fill-mask."
        )
