"""Turns inputs into tokens, and tokens into batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saliency_bench.core.errors import InputError, counted
from saliency_bench.core.tensors import Batch
from saliency_bench.core.text import Encoded
from saliency_bench.core.units import part_of_token, unplaced
from saliency_bench.data.example import Example
from saliency_bench.data.labels import resolve_label
from saliency_bench.data.records import half_character
from saliency_bench.models.extra import extra_of, tensors_of
from saliency_bench.models.model import Model
from saliency_bench.models.tasks import options, placing
from saliency_bench.models.tasks.items import TOKENS

#: Tokens that frame a text and are no part of it. [MASK] and [UNK] stand for words and are not among them.
FRAME_TOKENS = ("cls", "sep", "bos", "eos", "pad")

#: The truncation of a pair whose first text must stay whole.
ONLY_SECOND = "only_second"
#: The value of `too_long` in tasks that never cut a text.
NEVER_CUT = "never"


def encode(
    model: Model, examples: Sequence[Example], *, too_long: str = "truncate"
) -> list[Encoded]:
    """The examples as tokens; texts longer than the model allows are cut, or refused with too_long="error".

    Raises:
        InputError: a text is empty, too long, or its label is none of the model's classes.
    """
    return [encode_one(model, example, too_long) for example in examples]


def require_tokenizer(model: Model) -> None:
    """Raises an `InputError` for a model without a tokenizer."""
    if model.tokenizer is None:
        raise InputError(
            "this model has no tokenizer: give inputs with input_ids, or wrap_model(..., tokenizer=...)"
        )


def encode_one(
    model: Model, example: Example, too_long: str, truncation: str = "longest_first"
) -> Encoded:
    """One example as tokens (see `encode`); `truncation` says which of two texts is cut."""
    require_tokenizer(model)
    where = example.source or example.id
    if not example.text.strip():
        raise InputError(f"{where}: the text is empty: remove the row, or give it a text")
    if example.messages:
        raise InputError(f"{where}: {model.name} ({model.task}) reads a text, and no chat")
    for text in (example.text, example.text_pair or ""):
        if fault := half_character(text):
            raise InputError(f"{where}: expected a text, got {fault}")
    gold = _gold(model, example.label, where)
    tokenizer = model.tokenizer
    pair = () if example.text_pair is None else (example.text_pair,)
    wanted = {"return_offsets_mapping": tokenizer.is_fast, "return_special_tokens_mask": True}
    if example.turns:  # their template has special tokens of its own
        wanted["add_special_tokens"] = False
    encoding = tokenizer(example.text, *pair, **wanted, verbose=False)
    truncated = len(encoding["input_ids"]) > model.max_length
    if truncated:
        _may_cut(where, example, len(encoding["input_ids"]), model, too_long, truncation)
        encoding = tokenizer(
            example.text, *pair, **wanted, truncation=truncation, max_length=model.max_length
        )
    model.require_embedded(encoding["input_ids"], where)
    special = tuple(map(bool, encoding["special_tokens_mask"]))
    if example.turns:
        special = placing.outside_turns(example, encoding["offset_mapping"])
    if all(special):
        raise InputError(
            f"{where}: the tokenizer makes no token of this text: {example.text[:40]!r}"
        )
    types = tuple(encoding["token_type_ids"]) if "token_type_ids" in encoding else None
    token_places = placing.of_text(model, encoding, special, types, example)
    encoded = Encoded(
        example_id=example.id,
        input_ids=tuple(encoding["input_ids"]),
        token_type_ids=types,
        special=special,
        tokens=tuple(tokenizer.convert_ids_to_tokens(encoding["input_ids"])),
        gold=gold,
        truncated=truncated,
        extra=extra_of(model, encoding, [1] * len(special), where, strict=False),
        relevant=placing.relevant_tokens(example, token_places, where),
        parts=example.parts,
        turns=example.turns,
        **vars(token_places),
    )
    _refuse_empty_segments(encoded, where)
    return encoded


def _refuse_empty_segments(encoded: Encoded, where: str) -> None:
    """Refuses segments that came with a text and have no token; those of a text that was cut may have none."""
    if encoded.segmented and not encoded.truncated and not unplaced(encoded):
        part_of = set(part_of_token(encoded).tolist())
        for place, (name, of, _, _) in enumerate(encoded.parts):
            if of == 0 and place not in part_of:
                raise InputError(
                    f"{where}: segment {name} has no token of its own: the tokenizer leaves its letters out, or joins them "
                    "with those of the segment before it"
                )


def encoded_ids(
    model: Model,
    inputs: Mapping[str, Any],
    example_id: str,
    label: int | str | None,
    where: str,
    *,
    keep_pads: bool = False,
) -> Encoded:
    """An already tokenised input: `input_ids` and, where given, whatever else the model's `forward` names.

    Its padding, where `attention_mask` is 0, is stripped, or kept as special tokens that are not attended to
    (see `padding`). Padding that is attended to stays, and is special where the pad token is known.
    """
    if "input_ids" not in inputs:
        raise InputError(f"{where} has no input_ids; it has: {', '.join(map(str, inputs))}")
    ids = placing.whole_numbers(inputs, "input_ids", where)
    mask = (
        placing.whole_numbers(inputs, "attention_mask", where)
        if "attention_mask" in inputs
        else [1] * len(ids)
    )
    types = (
        placing.whole_numbers(inputs, "token_type_ids", where)
        if "token_type_ids" in inputs
        else None
    )
    _check_ids(model, ids, mask, types, where)
    if not any(mask):
        raise InputError(f"{where}: no token is attended to")
    kept = [position for position, real in enumerate(mask) if real or keep_pads]
    ids = [ids[position] for position in kept]
    pads = [not mask[position] for position in kept]
    tokenizer = model.tokenizer
    tokens = tokenizer.convert_ids_to_tokens(ids) if tokenizer else _named(inputs, ids, kept, where)
    special_ids = {getattr(tokenizer, f"{name}_token_id", None) for name in FRAME_TOKENS}
    outside = placing.pads_outside(model, ids)
    special = tuple(
        token in special_ids or pad or place in outside
        for place, (token, pad) in enumerate(zip(ids, pads, strict=True))
    )
    kept_types = tuple(types[position] for position in kept) if types else None
    token_places = placing.of_ids(model, ids, special, kept_types)
    return Encoded(
        example_id=example_id,
        input_ids=tuple(ids),
        token_type_ids=kept_types,
        special=special,
        tokens=tuple(tokens),
        gold=_gold(model, label, where),
        pads=tuple(pads) if any(pads) else None,
        extra=extra_of(model, inputs, mask if not keep_pads else [1] * len(mask), where),
        **vars(token_places),
    )


def mostly_unknown(model: Model, encoded: Sequence[Encoded]) -> str | None:
    """A warning where more than half of the texts' tokens are unknown to the tokenizer; otherwise None."""
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    ids = [
        token
        for item in encoded
        for token, special in zip(item.input_ids, item.special, strict=True)
        if not special
    ]
    n_unknown = ids.count(unknown) if isinstance(unknown, int) else 0
    if 2 * n_unknown <= len(ids):
        return None
    return (
        f"{n_unknown} of {len(ids)} tokens are {model.tokenizer.unk_token}, unknown to the tokenizer of {model.name}: is "
        "its vocabulary that of the model, and of the language of the texts?"
    )


def collate(model: Model, encoded: Sequence[Encoded], *, length: int | None = None) -> Batch:
    """A block of examples, padded on the right to the longest of them, or to `length` tokens."""
    width = max(length or 0, *(len(item) for item in encoded))
    pad = model.pad_token_id or 0

    def table(rows: Sequence[Sequence[int | bool]], fill: int | bool) -> Tensor:
        return torch.tensor(
            [[*row, *[fill] * (width - len(row))] for row in rows], device=model.device
        )

    types = [item.token_type_ids for item in encoded if item.token_type_ids is not None]
    return Batch(
        encoded=tuple(encoded),
        input_ids=table([item.input_ids for item in encoded], pad),
        mask=table([item.attended for item in encoded], False),
        token_type_ids=table(types, 0) if len(types) == len(encoded) else None,
        attributable=table([[not special for special in item.special] for item in encoded], False),
        extra=tensors_of(model, [item.extra for item in encoded], [*map(len, encoded)], width),
        options=options.collated(model, encoded, width),
        **_places(model, encoded, table),
    )


def _places(
    model: Model, encoded: Sequence[Encoded], table: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """The places in the outputs of every token where the questions are read."""
    if not model.per_token or any(item.options for item in encoded):
        return {}
    if all(item.boundary is not None for item in encoded):
        ends = torch.tensor([item.boundary for item in encoded], device=model.device)
        context = [[segment == 1 for segment in item.segments] for item in encoded]
        return {"boundaries": ends, "answerable": table(context, False)}
    if any(item.position is None for item in encoded):
        raise InputError(f"{model.name} ({model.task}): the question names no token")
    return {"positions": torch.tensor([item.position for item in encoded], device=model.device)}


def _named(
    inputs: Mapping[str, Any], ids: Sequence[int], kept: Sequence[int], where: str
) -> list[str]:
    """The tokens without a tokenizer: the names beside the ids, or else the ids."""
    if TOKENS not in inputs:
        return [str(token) for token in ids]
    names = inputs[TOKENS]
    if kept and len(names) <= kept[-1]:
        raise InputError(
            f"{where}: {counted(len(names), 'token')} stand beside {counted(len(ids), 'token id')}"
        )
    return [names[position] for position in kept]


def _check_ids(
    model: Model, ids: list[int], mask: list[int], types: list[int] | None, where: str
) -> None:
    if {len(mask), len(ids if types is None else types)} != {len(ids)}:
        raise InputError(f"{where}: input_ids, attention_mask and token_type_ids differ in length")
    if len(ids) > model.max_length:
        raise InputError(
            f"{where}: {counted(len(ids), 'token')}, but {model.name} takes {model.max_length}"
        )
    model.require_embedded(ids, where)


def _gold(model: Model, label: int | str | None, where: str) -> int | None:
    """The index of a gold label; a module without class names takes indices, which are checked later."""
    if label is None or (not model.labels and isinstance(label, int)):
        return label
    return resolve_label(label, model.labels, where)


def _may_cut(
    where: str, example: Example, n_tokens: int, model: Model, too_long: str, truncation: str
) -> None:
    """Refuses to cut a long text where cutting is off, or where the first of two texts alone is too long."""
    if too_long == NEVER_CUT:
        raise InputError(
            f"{where}: {counted(n_tokens, 'token')}, but {model.name} takes {model.max_length}, and the question is about the end of "
            "the text: shorten it"
        )
    if too_long == "error":
        raise InputError(
            f"{where}: {counted(n_tokens, 'token')}, but {model.name} takes {model.max_length}. Shorten it, or set too_long=truncate."
        )
    if truncation == ONLY_SECOND:
        second = model.tokenizer(example.text_pair, add_special_tokens=False, verbose=False)
        first = n_tokens - len(second["input_ids"])
        if first >= model.max_length:
            raise InputError(
                f"{where}: the first text alone has {counted(first, 'token')} with the special ones, and {model.name} takes "
                f"{model.max_length}: shorten it"
            )
