"""Builds a model from any module: finds its embedding layer, its inputs and the length of its texts."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from saliency_bench.core.errors import InputError, shown, unknown
from saliency_bench.models.causes import adapter_note, refuse_compiled
from saliency_bench.models.fingerprint import fingerprint
from saliency_bench.models.heads import HEADS
from saliency_bench.models.intake import find_embedding
from saliency_bench.models.model import Criterion, Forward, Model
from saliency_bench.models.module_facts import (
    called,
    class_names_in,
    embedding_tables,
    named_inputs,
    parameters_of,
)
from saliency_bench.models.placement import hooks_of, with_numbers
from saliency_bench.models.threads import frozen

#: Inputs that tokenizers produce or padding needs, and not every module takes.
OPTIONAL = ("attention_mask", "token_type_ids", "position_ids")
USE_CACHE = "use_cache"

#: The limit of a model without a limit, in tokens.
UNLIMITED = 10**6


def model_of(
    module: nn.Module,
    tokenizer: Any,
    *,
    task: str,
    name: str,
    facts: Mapping[str, Any],
    embeddings: str | nn.Module | None = None,
    forward: Forward | None = None,
    criterion: Criterion | None = None,
    labels: Sequence[str] | None = None,
    tf32: bool = False,
) -> Model:
    """The module with all that is needed to explain it; see `loading.wrap_model` and `model.Model`."""
    model = Model(
        module=module,
        tokenizer=tokenizer,
        task=task,
        name=name,
        labels=tuple(labels or ()),
        embedding=module,  # until it is found
        max_length=UNLIMITED,
        forward=forward or call_module,
        criterion=criterion,
        wants_mask=forward is not None or _needs_mask(module),
        takes=named_inputs(module) if forward is None else None,
        tf32=tf32,
        facts=facts,
    )
    if labels is None and HEADS[task].named:
        model = replace(model, labels=class_names_in(model.fact("id2label", of_head=True)))
    if embeddings is None:
        embeddings = _watch(model)
    elif isinstance(embeddings, str):
        embeddings = _layer_at(module, embeddings)
    model = replace(model, embedding=embeddings)
    longest = min(_most_positions(model), _longest_of(tokenizer))
    return replace(model, max_length=longest, as_made=fingerprint(module))


def weights_digest(module: nn.Module) -> str:
    """The SHA-256 of all weights and buffers by name, whatever files they came from."""
    digest = hashlib.sha256()
    # `get_extra_state` may return an object of any type.
    tensors = [pair for pair in module.state_dict().items() if isinstance(pair[1], Tensor)]
    for name, tensor in with_numbers(module, sorted(tensors, key=lambda pair: pair[0])):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def call_module(module: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    """Calls a module on its inputs, without the optional ones that its `forward` does not take.

    No cache is kept for tokens that would follow, unless the inputs say so: nothing reads it, and what some models write to it
    in place is needed for the gradient (RWKV).
    """
    replaced = vars(module).get("_old_forward" if hooks_of(module) else "forward")
    named, any_name = _taken(getattr(replaced, "__func__", replaced) or type(module).forward)
    if USE_CACHE in named:
        inputs = {USE_CACHE: False, **inputs}
    left_out = set() if any_name else {*OPTIONAL} - named
    return module(**{name: value for name, value in inputs.items() if name not in left_out})


@lru_cache(maxsize=64)
def _taken(forward: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """The inputs that a function names, and whether it takes others too (**kwargs)."""
    parameters = inspect.signature(forward).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return frozenset(parameters), any_name


def _needs_mask(module: nn.Module) -> bool:
    """Whether `forward` requires an attention mask."""
    mask = parameters_of(called(module)).get("attention_mask")
    return mask is not None and mask.default is mask.empty


def _watch(model: Model) -> nn.Module:
    """The layer that receives the token ids in a forward pass."""
    module = model.module
    sizes = [table.num_embeddings for table in embedding_tables(module).values()]
    if not sizes:
        raise InputError("the module has no nn.Embedding layer: give embeddings= in wrap_model()")
    refuse_compiled(module)
    with frozen(module):
        try:
            vocabulary = model.fact("vocab_size") or max(sizes)
            return find_embedding(module, model.on_ids_alone, vocabulary)
        except InputError as error:
            if note := adapter_note(module):
                raise InputError(f"{error}.{note}") from error
            raise


def _layer_at(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise unknown("embeddings", path, [*embedding_tables(module)]) from error


def _most_positions(model: Model) -> int:
    """The number of positions, by the configuration and by the size of the tables of positions.

    RoBERTa and similar models count positions from after the pad id, so that fewer of the table's rows are left.
    """
    configured = model.fact("max_position_embeddings") or UNLIMITED
    if configured < 0:  # XLNet's way to say that there is no limit
        configured = UNLIMITED
    return int(min([configured, *(table.most for table in model.position_tables or ())]))


def _longest_of(tokenizer: Any) -> int:
    """The tokenizer's limit of a text, in tokens; `UNLIMITED` where it has none."""
    longest = getattr(tokenizer, "model_max_length", None) or UNLIMITED
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest > 0:
        raise InputError(
            f"the tokenizer's model_max_length is {shown(longest)} (tokenizer_config.json): expected a whole number of tokens"
        )
    return int(min(longest, UNLIMITED))
