"""Translates the errors of Hydra and OmegaConf to one message that a user can act on."""

import difflib
import re
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import unknown

#: Lines that are about Hydra's inside, or advise what a schema forbids.
NOISE = re.compile(
    r"(full_key: .*|object_type=.*|reference_type=.*|Set the environment variable.*|To append .*"
    r"|See https://.*|Config search path:.*|provider=.*|Available options in .*)?"
)


#: Reasons for which a value is refused, in the libraries' words and in ours.
WORDS = {
    r"^Error merging override (.*)$": r"\1:",
    r"^Value (.*) of type '\w+' could not be converted to Integer": r"expected a whole number, got \1",
    r"^Value (.*) of type '\w+' could not be converted to Float": r"expected a number, got \1",
    r"^Value (.*) is not a valid bool.*": r"expected true or false, got \1",
    r"^Cannot convert '\w+' to string: '(.*)'": r"expected text, got \1",
    r"^Cannot merge DictConfig with ListConfig": "expected a list, got a mapping",
    r"^field '\w+' is not Optional": "expected a value, got null",
}


def readable(error: BaseException, schema: type) -> str:
    """Makes one message of an error, with the nearest name where a key or a choice is unknown."""
    if absent := re.match(r"provider=(\S+).*path=(.*) is not available", str(error)):
        return f"{absent[1]}: there is no folder {absent[2]!r}"
    causes = [error]
    while isinstance(cause := causes[-1].__cause__, HydraException | OmegaConfBaseException):
        causes.append(cause)
    lines = [_reworded(line.strip()) for cause in causes for line in str(cause).splitlines()]
    text = " ".join(dict.fromkeys(line for line in lines if not NOISE.fullmatch(line)))
    text = re.sub(r" expecting \{.*\}", "", text)
    if choice := re.search(r"Could not (?:load|find) '(\w+)/([^']+)'", text):
        return str(unknown(choice[1], choice[2], conf_files.names(choice[1])))
    key = _key(lines)
    if re.search(r"Key '[^']*' (?:is )?not in", text) and key:
        return unknown_key(key, schema)
    return text if key is None or key in text else f"{key}: {text}"


def _reworded(line: str) -> str:
    """A line of their message in our words, if it matches one of `WORDS`."""
    for theirs, ours in WORDS.items():
        line = re.sub(theirs, ours, line)
    return line


def _key(lines: list[str]) -> str | None:
    """Finds the full name of the key that the lines are about."""
    text = "\n".join(lines)  # a key within an overridden one is named by its cause
    match = re.search(r"^\s*full_key: (\S+)", text, re.MULTILINE) or re.search(
        r"Could not override '([^']+)'", text
    )
    return match and match[1]


def unknown_key(key: str, schema: type) -> str:
    """The message for a key that a schema does not have, with the nearest one or the choice that has it."""
    *section, name = key.split(".")
    siblings = sorted(_siblings(section, schema))
    if section and name in siblings and (others := _files_with(section, name)):
        chosen = " or ".join(f"{section[0]}={file}" for file in others)
        return f"unknown key {key!r}: what is chosen for {section[0]} has no such key; {chosen} has one."
    elsewhere = (
        []
        if section
        else [f"{part}.{name}" for part in siblings if name in _siblings([part], schema)]
    )
    near = [
        ".".join([*section, sibling]) for sibling in difflib.get_close_matches(name, siblings, n=1)
    ]
    if meant := elsewhere or near:
        return f"unknown key {key!r}; did you mean {' or '.join(map(repr, meant))}?"
    return f"unknown key {key!r}." + (f" Known here: {', '.join(siblings)}." if siblings else "")


def _siblings(section: list[str], schema: type) -> set[str]:
    """The keys that can stand in a section: of the schema, or of any file of the group."""
    if not section:
        return {field.name for field in fields(schema)}
    hint = get_type_hints(schema).get(section[0])
    kind = next(filter(is_dataclass, [hint, *get_args(hint)]), None)  # or null
    contents = [conf_files.read(section[0], name) for name in conf_files.names(section[0])]
    of_schema = {field.name for field in fields(kind)} if kind and not section[1:] else set()
    return of_schema | {key for content in contents for key in _inside(content, section[1:])} - {
        "defaults"
    }


def _files_with(section: list[str], name: str) -> list[str]:
    """The files of a group that have this key themselves."""
    return [
        file
        for file in conf_files.names(section[0])
        if name in _inside(conf_files.read(section[0], file), section[1:])
    ]


def _inside(content: Any, path: list[str]) -> list[str]:
    for part in path:
        content = content.get(part) if isinstance(content, dict) else None
    return list(content) if isinstance(content, dict) else []
