"""Checks of the folder of a model or an adapter before any library reads it: no code, and no pickle.

transformers opens every file that the index of a sharded checkpoint names, also pickles, and PEFT imports the module that
an adapter's configuration names. So these names are checked here before the libraries are called.
"""

import json
import re
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from saliency_bench.core.errors import InputError, one_line
from saliency_bench.models import quantised

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
#: The only folder inside a model's folder that transformers reads.
TEMPLATES = "additional_chat_templates"

#: Keys of a model's config.json that make transformers load code, kernels or weights from elsewhere.
CODE_KEYS = ("auto_map", "_attn_implementation_internal", "transformers_weights")
#: Types of adapters that PEFT merges into the weights exactly. Some of the others cannot be merged, and some make PEFT
#: unpickle a file, call a hub, or load a second model.
MERGED = (
    "LORA", "ADALORA", "LOHA", "LOKR", "OFT", "BOFT", "IA3", "HRA", "VERA", "FOURIERFT", "LN_TUNING", "VBLORA", "RANDLORA",
    "SHIRA", "C3A", "ROAD", "MISS", "WAVEFT", "DELORA", "GRALORA", "OSF", "TRAINABLE_TOKENS",
)  # fmt: skip
#: Keys of an adapter's configuration about its origin, which merging does not need.
UNUSED_KEYS = (
    "auto_mapping",
    "base_model_name_or_path",
    "peft_version",
    "revision",
    "runtime_config",
)
#: Words in the keys of paths, in `corda_config.cache_file` and the like.
_NAMES_A_FILE = re.compile(r"(^|_)(path|file|dir|folder|url|repo|hub|checkpoint)s?(_|$)")
#: Keys of an adapter's configuration that make PEFT import the module they name.
ADAPTER_CODE_KEYS = ("megatron_config",)


def check_model(folder: Path, *, whole: bool = True) -> None:
    """Refuses a model's folder that needs other files than its own safetensors.

    Args:
        folder: a local folder, or the snapshot of a model of the hub in the cache.
        whole: all files that the index names must be there; those of the hub are loaded later.

    Raises:
        InputError: it is no model's folder, needs code, or names weights that are not safetensors in the folder.
    """
    quantised.refuse_gguf(folder, (WEIGHTS, INDEX))
    if not folder.is_dir():
        raise InputError(
            f"model.path={folder} is not a folder. Give a folder with {CONFIG} and {WEIGHTS}."
        )
    config = folder / CONFIG
    if not config.is_file():
        raise InputError(f"model.path={folder} has no {CONFIG}: it is not a transformers model.")
    keys = read_object(config)
    _refuse_code(config, keys, CODE_KEYS)
    quantised.refuse_config(config, keys)
    if (folder / ADAPTER_CONFIG).exists():
        raise InputError(
            f"model.path={folder} holds an adapter too ({ADAPTER_CONFIG}), which transformers would merge. Keep it in a "
            "folder of its own and give that as model.adapter."
        )
    for file in (*folder.iterdir(), *(folder / TEMPLATES).glob("*")):
        if file.is_file():
            _refuse_outside(folder, file, str(file))
    if (folder / INDEX).exists():
        _check_index(folder, whole)


def check_adapter(folder: Path) -> dict[str, Any]:
    """Refuses an adapter's folder that needs other files than its own safetensors; returns its configuration.

    Keys that merging does not need, such as the name of the model that it was trained on, are left out.

    Raises:
        InputError: a file is missing or lies elsewhere, or the adapter is of a type that cannot be merged, or names files.
    """
    weights, config = folder / ADAPTER_WEIGHTS, folder / ADAPTER_CONFIG
    for path in (weights, config):
        if not path.is_file():
            raise InputError(f"model.adapter={folder} has no {path.name}.")
        _refuse_outside(folder, path, str(path))
    config_keys = read_object(config)
    keys = {key: value for key, value in config_keys.items() if key not in UNUSED_KEYS}
    _refuse_code(config, keys, [key for key in ADAPTER_CODE_KEYS if keys.get(key) is not None])
    if keys.get("peft_type") not in MERGED:
        raise InputError(
            f"{config}: peft_type is {keys.get('peft_type')!r}, expected one that can be merged: {', '.join(MERGED)}"
        )
    if (named := _file_named(keys)) is not None:
        raise InputError(
            f"{config} names a file or a model elsewhere ({named}), which is never read. Remove the key if you can, or "
            "merge the adapter yourself and give the model."
        )
    return keys


def _file_named(keys: dict[str, Any]) -> str | None:
    """The first key, at any depth, whose value is or could be a path; None where there is none."""
    waiting: list[tuple[str, Any]] = list(keys.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif isinstance(value, str) and (
            _NAMES_A_FILE.search(key) or "/" in value or ":\\" in value
        ):
            return key
    return None


def check_hub(name: str, revision: str | None) -> str:
    """Checks a model of the hub, of which only small JSON files are fetched; returns the commit that was checked.

    Raises:
        InputError: the hub and its cache have no such model, or it needs other files than its own safetensors.
    """
    try:
        _ask_once(name, revision)
        config = _from_hub(name, CONFIG, revision, must=True)
        assert config is not None
        snapshot = config.parent
        # The commit that was checked is loaded later, also where the branch has moved.
        commit = snapshot.name
        _from_hub(name, INDEX, commit)
        adapter = _from_hub(name, ADAPTER_CONFIG, commit)
    except (OSError, ValueError) as error:
        near = _similar_folder(name)
        raise InputError(
            f"model.path={name} is neither a local folder nor a model that could be loaded from the hub "
            "(no network, or no such id)"
            + (". " if near is None else f"; did you mean {str(near)!r}? ")
            + f"Give a local folder, or download it first. The error: {one_line(error)}"
        ) from error
    if adapter is not None:
        raise InputError(
            f"model.path={name} holds an adapter ({ADAPTER_CONFIG}). Give its model as model.path and it as model.adapter."
        )
    check_model(snapshot, whole=False)
    return commit


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file, which must hold an object.

    Raises:
        InputError: it is not JSON, or no object.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: expected an object of keys and values, got a {type(value).__name__}. Restore the file."
        )
    return value


def _refuse_code(path: Path, keys: dict[str, Any], refused: Any) -> None:
    for key in refused:
        if key in keys:
            raise InputError(
                f"{path} asks for code or weights of its own ({key}), which are never loaded. Remove the key if you can."
            )


def _check_index(folder: Path, whole: bool) -> None:
    path = folder / INDEX
    index = read_object(path)
    for key in ("weight_map", "metadata"):
        if not isinstance(index.get(key), dict):
            raise InputError(
                f"{path}: expected an object {key!r}, got {index.get(key)!r}. Save the model again, or restore the file."
            )
    for name in dict.fromkeys(map(str, index["weight_map"].values())):
        # Slashes of both kinds, whatever system the index was made for.
        if not name.endswith(".safetensors") or "/" in name or "\\" in name or ":" in name:
            raise InputError(
                f"{path} names {name!r}, expected the name of a .safetensors file in the same folder. Pickled weights and "
                "files from elsewhere are not loaded; save the model again with save_pretrained(FOLDER)."
            )
        if whole and not (folder / name).is_file():
            raise InputError(
                f"{path} names {name!r}, which is not there. Copy the whole model's folder."
            )


def _refuse_outside(folder: Path, file: Path, what: str) -> None:
    """Refuses a link out of the folder; a snapshot of the hub's cache has its files in `blobs` beside it."""
    allowed = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        allowed.append(folder.resolve().parents[1] / "blobs")
    if file.exists() and not any(file.resolve().is_relative_to(place) for place in allowed):
        raise InputError(
            f"{what} is a link to {file.resolve()}, out of its folder. Put the file itself there."
        )


def _similar_folder(name: str) -> Path | None:
    """A local model folder with nearly this name, or None."""
    with suppress(OSError):
        beside = [folder for folder in Path(name).parent.iterdir() if (folder / CONFIG).is_file()]
        names = {folder.name: folder for folder in beside}
        near = get_close_matches(Path(name).name, names, n=1)
        return names[near[0]] if near else None
    return None


def _ask_once(name: str, revision: str | None) -> None:
    """Checks the hub once for a model that is not in the cache; the hub's own client would try for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode() or isinstance(
        try_to_load_from_cache(name, CONFIG, revision=revision), str
    ):
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, CONFIG, revision=revision))
    except Exception as error:  # errors of the hub and its client are of many types
        raise OSError(one_line(error)) from error


def _from_hub(name: str, file: str, revision: str | None, must: bool = False) -> Path | None:
    """The path in the cache of a model's file; None where the model has no such file."""
    from huggingface_hub.constants import is_offline_mode
    from transformers.utils.hub import cached_file

    path = cached_file(
        name,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=must,
        # A failed connection does not mean that the file does not exist; offline there is only the cache.
        _raise_exceptions_for_connection_errors=must or not is_offline_mode(),
    )
    return None if path is None else Path(path)
