"""The class whose score is explained: predicted, gold, named, or one class against another."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.core.errors import InputError, counted
from saliency_bench.core.rows import Target
from saliency_bench.core.tensors import Batch
from saliency_bench.core.text import Encoded
from saliency_bench.data.labels import resolve_label

PREDICTED, GOLD, RUNNER_UP = "predicted", "gold", "runner_up"
#: Every class: a map for each.
ALL = "all"
#: The pair (A, B) in configurations and on the command line, which explains score(A) - score(B): the evidence for A
#: rather than B (Yin & Neubig 2022). A and B may be any other target.
CONTRAST, AGAINST = "contrast:", "|"

#: Finds the class of a text by name, among this number of classes.
ClassOf = Callable[[str | int, Encoded, int], int]

_ONE_MAP = "target=all gives several maps of a text; here a text has one: name a class"


def choose(
    target: Target, logits: Float[Tensor, "B C"], batch: Batch, class_of: ClassOf
) -> Int[Tensor, "B ..."]:
    """The class to explain for each example; with a second column, the class it is compared with.

    Args:
        target: "predicted", "gold", "runner_up" (the second largest logit), a class by index or name, or two of
            these as (A, B) or "contrast:A|B".
        logits: of the unperturbed texts.
        batch: the texts with their gold labels.
        class_of: finds a text's class by name.

    Raises:
        InputError: there is no gold label, no such class, or a class is contrasted with itself.
    """
    target = parse_target(target)
    if not isinstance(target, tuple):
        return _classes(target, logits, batch, class_of)
    first, second = (_classes(part, logits, batch, class_of) for part in target)
    if same := [
        example_id
        for example_id, equal in zip(batch.example_ids, (first == second).tolist(), strict=True)
        if equal
    ]:
        raise InputError(f"target={target}: both are the same class for text {same[0]}")
    return torch.stack([first, second], 1)


def parse_target(target: Target) -> Target:
    """Parses `contrast:A|B`; any other target is returned as it is.

    Names keep their spaces, since two tokens of a vocabulary may differ by the space before a word.

    Raises:
        InputError: a contrast is written otherwise.
    """
    if not isinstance(target, str) or not target.startswith(CONTRAST):
        return target
    first, bar, second = target.removeprefix(CONTRAST).partition(AGAINST)
    if not bar or not first.strip() or not second.strip() or AGAINST in second:
        raise InputError(
            f"target={target}: expected contrast:A|B, as contrast:positive|negative (in Python a tuple, where a name has "
            f"a {AGAINST} in it)"
        )
    return _written(first), _written(second)


def _written(name: str) -> str:
    """A keyword of this module without spaces around it; any other name as it is."""
    return name.strip() if name.strip() in (PREDICTED, GOLD, RUNNER_UP, ALL) else name


def check(target: Target, labels: Sequence[str], encoded: Sequence[Encoded]) -> None:
    """Checks a target before the model has read a text.

    Raises:
        InputError: no class has that name, or an example lacks the gold label of target=gold.
    """
    parts = parse_target(target)
    for name in parts if isinstance(parts, tuple) else (parts,):
        if name == GOLD:
            require_gold(encoded)
        elif name == ALL:
            raise InputError(_ONE_MAP)
        elif name not in (PREDICTED, RUNNER_UP) and labels:
            resolve_label(name, labels, "target")


def require_gold(encoded: Sequence[Encoded]) -> None:
    """Refuses target=gold where an example has no gold label."""
    missing = [item.example_id for item in encoded if item.gold is None]
    if missing:
        which = (
            missing[0] if len(missing) < max(len(encoded), 2) else f"none of {len(encoded)} texts"
        )
        raise InputError(
            f"target=gold needs a label, but {which} has "
            f"{'none' if len(missing) < len(encoded) else 'one'}. Name the column (data.label=...), or give labels= in Python"
        )


def class_names(labels: Sequence[str], n_classes: int) -> tuple[str, ...]:
    """The model's class names, or LABEL_0, LABEL_1, ... where it has none."""
    if len(labels) == n_classes:
        return tuple(labels)
    return tuple(f"LABEL_{index}" for index in range(n_classes))


def _classes(
    target: str | int, logits: Float[Tensor, "B C"], batch: Batch, class_of: ClassOf
) -> Int[Tensor, " B"]:
    if target == PREDICTED:
        return _predicted(logits, batch)
    if target == RUNNER_UP:
        return _second(logits)
    if target == ALL:
        raise InputError(_ONE_MAP)
    if target != GOLD:
        classes = [class_of(target, item, logits.shape[-1]) for item in batch.encoded]
        return torch.tensor(classes, device=logits.device)
    require_gold(batch.encoded)
    for item in batch.encoded:
        if item.gold is not None and not 0 <= item.gold < logits.shape[-1]:
            raise InputError(
                f"{item.example_id}: label {item.gold}, but the model has {counted(logits.shape[-1], 'class', 'classes')}"
            )
    return torch.tensor([item.gold for item in batch.encoded], device=logits.device)


def _predicted(logits: Float[Tensor, "B C"], batch: Batch) -> Int[Tensor, " B"]:
    largest = logits.argmax(-1)
    if all(item.default_class is None for item in batch.encoded):
        return largest
    defaults = [-1 if item.default_class is None else item.default_class for item in batch.encoded]
    chosen = torch.tensor(defaults, device=logits.device)
    return torch.where(chosen < 0, largest, chosen)


def _second(logits: Float[Tensor, "B C"]) -> Int[Tensor, " B"]:
    if logits.shape[-1] < 2:
        raise InputError("target=runner_up: the model has one class only")
    first = logits.argmax(-1, keepdim=True)
    return logits.scatter(1, first, -torch.inf).argmax(-1)
