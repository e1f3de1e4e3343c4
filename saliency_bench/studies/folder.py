"""The results folder of a study: it claims one that is empty or its own, and refuses all others."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saliency_bench.attribution.describe import described
from saliency_bench.core.errors import InputError, counted
from saliency_bench.core.method_facts import FACTS
from saliency_bench.store.durable import is_leftover, refuse_links, replace_file, storing
from saliency_bench.store.run import CONFIG, IDENTITY, SETTINGS, read_json, write_json
from saliency_bench.store.schema import refuse_unreadable
from saliency_bench.studies.prepare import Study

RUNS = Path("results") / "runs"
CHOICE = "choice"  # the folder of the study that chooses
_NAMED, _SHOWN = 12, 60  # differences in a message, and characters of each key and value


def folder_of(study: Study) -> Path:
    """The folder of the study's results."""
    name = study.config.name
    return Path(study.config.out) if study.config.out else RUNS / f"{name}-{study.id}"


def refuse_another(study: Study, folder: Path) -> None:
    """Refuses a folder that holds another study, naming what differs, or anything that no study has written.

    Raises:
        InputError: it does.
        StorageError: what the folder says of itself is damaged, or it holds a link to elsewhere.
    """
    refuse_links(folder)
    path = folder / IDENTITY
    if not path.is_file() and (others := strangers(folder)):
        some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise InputError(
            f"{folder} holds other files ({some}) and no {IDENTITY} of a study. Give a new folder with out=."
        )
    identity = json.loads(json.dumps(study.identity))
    if path.is_file():
        held = read_json(path, dict)
        if held != identity:
            changed = list(differences(held, identity))
            if "settings" in changed and (folder / SETTINGS).is_file():
                changed.remove("settings")
                changed += _of_settings(read_json(folder / SETTINGS, list), study)
            some = ", ".join(changed[:_NAMED]) + (", ..." if len(changed) > _NAMED else "")
            raise InputError(
                f"{folder} holds another run; it differs in {some}. Give another folder with out=, or remove it."
            )


def _of_settings(held: list[Any], study: Study) -> list[str]:
    """The fields in which the settings of each method entry differ, but for those that all have from the study."""
    changed: dict[str, None] = {}
    entries = [entry for entry in held if isinstance(entry, dict)]
    names = [str(entry.get("name")) for entry in entries]
    for name in dict.fromkeys(names + [setting.name for setting in study.settings]):
        before = [entry for entry in entries if entry.get("name") == name]
        after = [setting.to_dict() for setting in study.settings if setting.name == name]
        if len(before) != len(after):
            changed[f"method.{_cut(name)} ({len(before)} → {counted(len(after), 'setting')})"] = (
                None
            )
            continue
        for pair in zip(before, after, strict=True):
            fields = {*pair[0], *pair[1]} - {"setting_id", "seed", "target", FACTS}
            kept = [{key: entry[key] for key in fields & entry.keys()} for entry in pair]
            changed |= dict.fromkeys(differences(kept[0], kept[1], f"method.{name}"))
    return list(changed)


def strangers(folder: Path) -> list[str]:
    """The files that no study has written before it claims a folder; the study that chooses stands there by then."""
    if not folder.is_dir():
        return []
    with storing(folder):
        names = sorted(path.name for path in folder.iterdir() if not is_leftover(path.name))
    choice = folder / CHOICE
    if choice.is_dir() and ((choice / IDENTITY).is_file() or not strangers(choice)):
        names.remove(CHOICE)
    return names


def claim(study: Study, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the identity and the settings of the study to its folder, and the configuration that other processes go on with.

    Raises:
        InputError: settings, or what is known of the manifest, could not be read again; nothing is written.
    """
    settings = [described(setting, study.parts) for setting in study.settings]
    refuse_unreadable(*json.loads(json.dumps([settings, manifest])))
    write_json(folder / IDENTITY, json.loads(json.dumps(study.identity)))
    write_json(folder / SETTINGS, settings)
    # In its own order, which is that of the settings: canonical JSON would sort it.
    held = json.dumps(asdict(study.requested) | {"out": None}, indent=1, ensure_ascii=False)
    replace_file(folder / CONFIG, f"{held}\n".encode())


def differences(a: Any, b: Any, key: str = "") -> Iterable[str]:
    """Dotted keys at which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted({*a, *b}):
            yield from differences(a.get(name), b.get(name), f"{key}.{name}" if key else name)
    elif a != b:
        yield _cut(key) if isinstance(a, list | dict) else f"{_cut(key)} ({_cut(a)} → {_cut(b)})"


def _cut(value: object) -> str:
    """A key or value in one short line; the folder may be somebody else's."""
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
