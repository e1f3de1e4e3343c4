"""Words of a command line, each `key=value`, are translated to Hydra's grammar, so that texts mean what was typed.

Hydra's values are a language of their own, in which `=`, brackets, commas and letters beyond ASCII mean something or
nothing. What names a file, a column or a class is text, so that it is quoted for Hydra here.
"""

import re
from collections.abc import Sequence
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from saliency_bench.core.errors import InputError

#: Keys whose values are any text, in every group.
TEXTS = re.compile(
    r"[+]*(out|target|model\.(path|adapter|revision)|choose\.split|runtime\.executor\.(address|partition)"
    r"|data\.(path|name|revision|split|text|text_pair|label|id|relevant)|method\.\w+\.path)"
)
#: Keys whose values are texts too, or lists of some.
TEXTS_OR_LISTS = re.compile(r"[+]*method\.\w+\.(baseline|references)")
#: Keys of entries need no `+`: `validate` checks what an entry may hold.
_OPTIONAL = re.compile(r"^(?=(method|metric)\.\w+\.\w+=)")
_QUOTES = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
#: Characters that Hydra takes without quotes.
_PLAIN = re.compile(r"[\w\s/\\+.$%*@?|:-]*", re.ASCII)
_KEY = re.compile(r"[+~]*[\w/@.:$-]+", re.ASCII)
_BRACKETS = {"[": "]", "{": "}", "(": ")"}


def as_hydra_reads(words: Sequence[str], sweeps: bool = False) -> list[str]:
    """Quotes texts and completes keys of entries, so that Hydra can parse each word.

    Args:
        words: overrides, in which nothing but Hydra's own grammar may have been quoted.
        sweeps: several values of a key are several studies (--multirun).

    Raises:
        InputError: a word is no override, or has several values where they are none.
    """
    made = [_OPTIONAL.sub("++", _quoted(word, sweeps), count=1) for word in words]
    for word, typed in zip(made, words, strict=True):
        _refuse(word, typed.replace("\n", r"\n"), sweeps)  # a message is one line
    return made


def _quoted(word: str, sweeps: bool) -> str:
    key, equals, value = word.partition("=")
    text = TEXTS.fullmatch(key) or (TEXTS_OR_LISTS.fullmatch(key) and value[:1] != "[")
    if text and not _is_hydras(word, value, sweeps):
        value = _in_quotes(value)
    elif not text:
        # What separates parts depends on what is there: mappings have colons, functions named arguments.
        between = "[]{}(),'\"" + ":" * ("{" in value) + "=" * ("(" in value)
        parts = re.compile(f"{_QUOTES}|[^{re.escape(between)}]+", re.DOTALL)
        value = parts.sub(lambda part: _quoted_part(part[0]), value)
    return f"{key}{equals}{value}"


def _is_hydras(word: str, value: str, sweeps: bool) -> bool:
    """Whether the value of a text is meant in Hydra's grammar: null, quoted, escaped, interpolated or a sweep."""
    if value.lower() in ("", "null") or "${" in value:
        return True
    return (sweeps or value[0] in "'\"" or "\\" in value) and isinstance(_parsed(word), Override)


def _quoted_part(part: str) -> str:
    if part[0] in "'\"" or _PLAIN.fullmatch(part):
        return part
    core = part.strip()
    before, after = part[: part.index(core)], part[part.index(core) + len(core) :]
    return f"{before}{_in_quotes(core)}{after}"


def _in_quotes(text: str) -> str:
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def _parsed(word: str) -> Override | HydraException:
    """Parses a word as Hydra does; returns the error where that fails."""
    try:
        return _parser().parse_override(word)
    except HydraException as error:
        return error


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _refuse(word: str, typed: str, sweeps: bool) -> None:
    parsed = _parsed(word)
    key, equals, value = typed.partition("=")
    if equals and not _KEY.fullmatch(key):
        raise InputError(f"{typed}: expected KEY=VALUE, and {key!r} is no key")
    if isinstance(parsed, HydraException):
        raise InputError(_complaint(typed, key, equals, value, parsed))
    if parsed.is_sweep_override() and not sweeps:
        raise InputError(
            f"{typed}: expected one value. A list is {key}=[{value}]; with -m each value is a study of its own."
        )


def _complaint(typed: str, key: str, equals: str, value: str, error: HydraException) -> str:
    if not equals:
        return (
            f"{typed!r}: expected KEY=VALUE. Where a value has spaces, quote the whole word: "
            "'data.path=my reviews.csv'"
        )
    if (wrong := _unbalanced(value)) is not None:
        return f"{typed}: {wrong}. Write a list as method=[vanilla,smoothgrad]."
    reason = " ".join(str(error).split("\n")[0].split())
    return (
        f"{typed}: the value could not be read ({reason}). Quote what is text: \"{key}='...'\", and in a list each: "
        f"\"{key}=['...','...']\""
    )


def _unbalanced(value: str) -> str | None:
    """The fault in the brackets of a value, outside quotes; None where there is none."""
    waiting: list[str] = []
    for character in re.sub(_QUOTES, "", value, flags=re.DOTALL):
        if character in _BRACKETS:
            waiting.append(_BRACKETS[character])
        elif character in _BRACKETS.values() and (not waiting or waiting.pop() != character):
            return f"the bracket {character} closes none that is open"
    return f"the bracket {waiting[-1]} is missing" if waiting else None
