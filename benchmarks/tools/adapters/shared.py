"""What adapters share: texts to padded tensors, maps without padding, and outputs at other embeddings."""

import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tools.laws import Map
from benchmarks.tools.models import output_of

N_STEPS = 50
ONE_TEXT = "it takes one text a call"
#: Gives logits.
Run = Callable[[], Tensor]
FIXED = {"batch": ONE_TEXT, "padding": ONE_TEXT}


@contextmanager
def stand_ins(modules: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Modules with these names that are not installed here, while a tool is imported that asks for them in vain."""
    added = {}
    for name, contents in modules.items():
        if name not in sys.modules:
            added[name] = types.ModuleType(name)
            vars(added[name]).update(contents)
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def encoded(tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """Ids and attention mask [B T], padded on the tokenizer's side, with what else the tokenizer gives."""
    return dict(tokenizer(list(texts), return_tensors="pt", padding=True))


def trimmed(scores: Tensor, mask: Tensor) -> list[Map]:
    """The scores [B T] of each text without those of its padding."""
    return [row[keep.bool()].detach().numpy() for row, keep in zip(scores, mask, strict=True)]


def positions(module: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Position ids that count from a text's own first token, for a language model, which is padded on the left."""
    if not hasattr(module, "lm_head"):
        return {}
    return {"position_ids": (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)}


def baseline_ids(tokenizer: Any, ids: Tensor) -> Tensor:
    """[PAD] in the place of every token that is not special."""
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    return torch.where(special, ids, torch.full_like(ids, tokenizer.pad_token_id))


def change(
    module: Any,
    tokenizer: Any,
    baseline: Callable[[Tensor], Tensor],
    output: Callable[[Tensor], Tensor] = output_of,
    **given: Any,
) -> Callable[[str], float]:
    """F(x) − F(x′) of a text, where `baseline` makes the embeddings x′ [1 T D] from its ids.

    The ids stay, and the embeddings are replaced behind the embedding module, so that nothing else moves.
    """

    def of(text: str) -> float:
        inputs = {**encoded(tokenizer, [text]), **given}
        start = baseline(inputs["input_ids"])
        with torch.no_grad():
            full = output(module(**inputs).logits)
            handle = module.get_input_embeddings().register_forward_hook(lambda *_: start)
            try:
                return float(full - output(module(**inputs).logits))
            finally:
                handle.remove()

    return of


def from_padding(module: Any, tokenizer: Any) -> Callable[[Tensor], Tensor]:
    """The embeddings of `baseline_ids`."""
    embed = module.get_input_embeddings()
    return lambda ids: embed(baseline_ids(tokenizer, ids)).detach()


def output(module: Any, tokenizer: Any, text: str) -> float:
    """F(x)."""
    inputs = encoded(tokenizer, [text])
    with torch.no_grad():
        return float(output_of(module(**inputs, **positions(module, inputs)).logits))


def input_x_gradient(module: Any, tokenizer: Any, texts: Sequence[str]) -> list[Map]:
    """Σ_d x_d ∂F/∂x_d at the word embeddings, through whatever backward pass the module now has."""
    inputs = encoded(tokenizer, texts)
    gradient, words, _ = _gradient(module, inputs)
    return trimmed((gradient * words).sum(-1), inputs["attention_mask"])


def whole_relevance(
    module: Any, tokenizer: Any, text: str, ruled: Callable[[Run], Tensor] | None = None
) -> float:
    """The relevance of all embeddings that are added: of words, and of positions and types where there are such.

    `ruled` gets the logits from the function that it is given, and puts a backward rule on them.
    """
    gradient, words, added = _gradient(module, encoded(tokenizer, [text]), ruled)
    return float((gradient * (words + added)).sum())


def _gradient(
    module: Any, inputs: dict[str, Tensor], ruled: Callable[[Run], Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient at the word embeddings [B T D], these, and the sum of all other embeddings.

    The ids stay, and the embeddings become a leaf behind the embedding module.
    """
    words: list[Tensor] = []
    added: list[Tensor] = [torch.zeros(1)]

    def to_leaf(_module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
        words.append(out.detach().requires_grad_())
        return words[0]

    def keep(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
        added.append(out.detach())

    first = module.get_input_embeddings()
    embeddings = [one for one in module.modules() if isinstance(one, nn.Embedding)]
    handles = [one.register_forward_hook(keep) for one in embeddings if one is not first]
    handles.append(first.register_forward_hook(to_leaf))
    try:
        run: Run = lambda: module(**inputs, **positions(module, inputs)).logits  # noqa: E731
        logits = run() if ruled is None else ruled(run)
    finally:
        for handle in handles:
            handle.remove()
    (gradient,) = torch.autograd.grad(output_of(logits).sum(), words[0])
    return gradient, words[0].detach(), sum(added, torch.zeros(1))


def as_maps(scores: Sequence[Any]) -> list[Map]:
    """Whatever a tool returns for each text, as vectors of float64."""
    return [np.asarray(one, dtype=np.float64).reshape(-1) for one in scores]
