"""What a tool has no leave to change: the model, the tokenizer, and the functions and classes of torch."""

import hashlib
import json
from typing import Any

import torch
from torch import nn

from benchmarks.tools.models import LONG, output_of

#: Functions and methods that every model of the process shares.
SHARED = (
    (torch, "softmax"),
    (torch.Tensor, "softmax"),
    (nn.functional, "softmax"),
    (nn.functional, "scaled_dot_product_attention"),
    (nn.functional, "layer_norm"),
    (nn.LayerNorm, "forward"),
    (nn.Dropout, "forward"),
    (nn.Linear, "forward"),
    (nn.Embedding, "forward"),
)


def state(module: nn.Module, tokenizer: Any) -> dict[str, Any]:
    """By name, what is to be the same afterwards. Objects that stand here are compared by `==`."""
    parameters = dict(module.named_parameters())
    return {
        "weights": digest(*parameters.values(), *module.buffers()),
        "requires_grad of parameters": [one.requires_grad for one in parameters.values()],
        "grad of parameters": [name for name, one in parameters.items() if one.grad is not None],
        "training mode": [one.training for one in module.modules()],
        "modules": [(name, id(type(one))) for name, one in module.named_modules()],
        "hooks": [_hooks(one) for one in module.modules()],
        "configuration": json.dumps(_config(module), sort_keys=True, default=str),
        "tokenizer": (tokenizer.special_tokens_map, len(tokenizer), tokenizer.padding_side),
        "shared functions": [getattr(owner, name) for owner, name in SHARED],
        "classes of the model": _forwards(module),
        "plain gradient": plain_gradient(module, tokenizer),
    }


def plain_gradient(module: nn.Module, tokenizer: Any) -> str:
    """A digest of autograd's gradient at the word embeddings of a text."""
    encoded = tokenizer([LONG], return_tensors="pt")
    with torch.enable_grad():
        embedded = module.get_input_embeddings()(encoded["input_ids"]).detach().requires_grad_()
        logits = module(inputs_embeds=embedded, attention_mask=encoded["attention_mask"]).logits
        (gradient,) = torch.autograd.grad(output_of(logits).sum(), embedded)
    return digest(gradient)


def digest(*tensors: torch.Tensor) -> str:
    """Of the bytes of tensors."""
    found = hashlib.sha256()
    for one in tensors:
        found.update(one.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _hooks(module: nn.Module) -> tuple[int, int, int]:
    return (
        len(module._forward_hooks),
        len(module._forward_pre_hooks),
        len(module._backward_hooks) + len(module._backward_pre_hooks),
    )


def _config(module: Any) -> dict[str, Any]:
    config = module.config.to_dict()
    config.pop("transformers_version", None)
    return config


def _forwards(module: nn.Module) -> list[Any]:
    """The forward functions of the model's classes, by name of the class, and what its file calls for attention."""
    from importlib import import_module

    kinds = sorted({type(one) for one in module.modules()}, key=lambda kind: kind.__qualname__)
    file = import_module(type(module).__module__)
    names = ("eager_attention_forward", "ALL_ATTENTION_FUNCTIONS")
    return [
        *((kind.__qualname__, kind.forward) for kind in kinds),
        *((name, id(getattr(file, name, None))) for name in names),
    ]
