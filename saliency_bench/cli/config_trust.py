"""Hydra's configuration is code: it can name Python objects that Hydra calls. The user says whose code may run.

A folder of one's own experiments, methods and models is data, and is taken. One that another user can have written, or
that reaches beyond this program's own keys, is refused unless its owner is said to be trusted.
"""

import os
import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from saliency_bench.core.errors import InputError, one_line

FLAG = "--trust-config-dir"
_SUFFIXES = (".yaml", ".yml")
#: Hydra's own keys, keys by which it calls code, and interpolations that call something.
_CODE = re.compile(r"hydra|_target_|\$\{[^${}]*:", re.IGNORECASE)
#: Nested aliases double a file's values with every level; no ordinary configuration needs so many.
MOST_ALIASES = 16
_PACKAGE = re.compile(r"^\s*#\s*@package\b.*", re.MULTILINE)


def refuse_code(options: Namespace, trusts: bool) -> None:
    """Refuses options that would make Hydra run somebody else's code.

    Args:
        options: Hydra's options as its own parser reads them, abbreviated ones too.
        trusts: the user has said that the owner of the folder is trusted.

    Raises:
        InputError: a folder could have been written by another user, or could run code, and is not said to be trusted;
            or pickles are to be loaded.
    """
    if options.experimental_rerun:
        raise InputError(
            "--experimental-rerun loads pickles, which may run code. Give the overrides instead."
        )
    folder = options.config_dir
    if folder is not None and not (folder and Path(folder).is_dir()):
        raise InputError(f"--config-dir {folder!r}: there is no such folder.")
    if trusts:
        return
    for option in ("config_dir", "config_path"):
        if folder := getattr(options, option):
            _refuse_foreign(f"--{option.replace('_', '-')}", Path(folder))
    for word in options.overrides:
        if re.match(r"[+~]*hydra\.searchpath\b", word):
            raise _refusal(word, "it names folders of configuration that are not looked into")


def _refuse_foreign(option: str, folder: Path) -> None:
    for path in _everything_in(folder):
        status = path.stat()
        if hasattr(os, "geteuid") and status.st_uid not in (os.geteuid(), 0):
            raise _refusal(f"{option} {folder}", f"{path} belongs to another user")
        if os.name != "nt" and status.st_mode & 0o002:
            raise _refusal(f"{option} {folder}", f"every user can write {path}")
        if reason := _reaches_beyond(path, folder):
            raise _refusal(f"{option} {folder}", f"{path} {reason}")


def _refusal(what: str, why: str) -> InputError:
    return InputError(
        f"{what}: {why}. Configuration of Hydra is code: if you trust its owner, say so with {FLAG}."
    )


def _everything_in(folder: Path) -> Iterator[Path]:
    """Lists the folder, its subfolders and its configuration files, following links as Hydra does."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield Path(place)
        yield from (Path(place, name) for name in files if name.endswith(_SUFFIXES))


def _reaches_beyond(path: Path, folder: Path) -> str | None:
    """The reason why a file could make Hydra call something; None where it could not."""
    if _CODE.search(str(path.relative_to(folder))):
        return "is a file of Hydra's own"
    if path.is_dir():
        return None
    try:
        text = path.read_text("utf-8")
        root = yaml.compose(
            text, yaml.SafeLoader
        )  # follows no alias, and gives up on depth at once
        aliases = sum(
            isinstance(token, yaml.AliasToken) for token in yaml.scan(text, yaml.SafeLoader)
        )
        if aliases > MOST_ALIASES:
            return f"has {aliases} aliases, which could stand for billions of values, expected up to {MOST_ALIASES}"
        _refuse_misshapen(path, text, root)
        words = [*_scalars(root, set()), *_PACKAGE.findall(text)]
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        return f"cannot be read ({one_line(error)})"
    return next((f"says {word[:80]!r}" for word in words if _CODE.search(word)), None)


def _refuse_misshapen(path: Path, text: str, root: Any) -> None:
    """Refuses files that Hydra would misread, or would never finish reading."""
    if text.startswith("\ufeff"):
        raise InputError(f"{path} begins with a byte order mark. Save it as UTF-8 without one.")
    if root is not None and not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "one value"
        raise InputError(f"{path}: expected keys with values (key: value), got {kind}.")
    if _includes_itself(path):
        raise InputError(f"{path}: its defaults lead back to itself. Remove it from them.")


def _includes_itself(path: Path) -> bool:
    """Whether the defaults of a file lead back to it through files of its own folder."""
    waiting, seen = [path], set[Path]()
    while waiting:
        current = waiting.pop()
        for name in _defaults(current):
            other = path.parent / f"{name}{path.suffix}"
            if other == path:
                return True
            if other not in seen and other.is_file():
                seen.add(other)
                waiting.append(other)
    return False


def _defaults(path: Path) -> list[str]:
    """Lists the files of the same group that the defaults of a file name."""
    try:
        root = yaml.compose(path.read_text("utf-8"), yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return []  # its own turn comes
    if not isinstance(root, yaml.MappingNode):
        return []
    listed = []
    for key, value in root.value:
        if key.value == "defaults" and isinstance(value, yaml.SequenceNode):
            listed += [item.value for item in value.value if isinstance(item, yaml.ScalarNode)]
    group = f"/{path.parent.name}/"
    names = [name.removeprefix(group).split("@")[0] for name in listed]
    return [name for name in names if not name.startswith("/")]  # of another group


def _scalars(node: Any, seen: set[int]) -> Iterator[str]:
    """Lists every key and value as YAML reads it, so that escapes and aliases hide nothing, and tags of Python."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        yield f"_target_ {node.tag}"
    if isinstance(node, yaml.ScalarNode):
        yield node.value
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item, seen)
    else:
        for pair in node.value:
            for item in pair:
                yield from _scalars(item, seen)
