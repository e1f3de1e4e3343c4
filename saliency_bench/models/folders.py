"""What the folder of a model or an adapter may hold, looked at before any library reads it: data, and never a pickle.

transformers opens whatever file the index of a sharded checkpoint names, pickles among them, and PEFT imports the module
that an adapter's configuration names: neither is asked before the names have been read here.
"""

import json
from pathlib import Path
from typing import Any

from saliency_bench.errors import InputError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

#: Keys of a model's config.json that make transformers load code, kernels or weights from elsewhere.
CODE_KEYS = ("auto_map", "_attn_implementation_internal", "transformers_weights")
#: Keys of an adapter's configuration that make PEFT import the module they name.
ADAPTER_CODE_KEYS = ("megatron_config",)


def check_model(folder: Path, *, whole: bool = True) -> None:
    """Refuses a model's folder that asks for anything but its own safetensors.

    Args:
        folder: where it is; the snapshot in the cache for one of the hub.
        whole: all files that the index names must be there; those of the hub are yet to come.

    Raises:
        InputError: it is no model's folder, asks for code, or names weights that are not to be loaded.
    """
    if not folder.is_dir():
        raise InputError(
            f"model.path={folder} is not a folder. Give a folder with {CONFIG} and {WEIGHTS}."
        )
    config = folder / CONFIG
    if not config.is_file():
        raise InputError(f"model.path={folder} has no {CONFIG}: it is not a transformers model.")
    _refuse_code(config, read_object(config), CODE_KEYS)
    if (folder / ADAPTER_CONFIG).exists():
        raise InputError(
            f"model.path={folder} holds an adapter too ({ADAPTER_CONFIG}), which would be merged unasked. Keep it in a "
            "folder of its own and give that as model.adapter."
        )
    if (folder / INDEX).exists():
        _check_index(folder, whole)


def check_adapter(folder: Path) -> None:
    """Refuses an adapter's folder that asks for anything but its own safetensors.

    Raises:
        InputError: a file is missing, is none of PEFT's, or lies elsewhere.
    """
    weights, config = folder / ADAPTER_WEIGHTS, folder / ADAPTER_CONFIG
    for path in (weights, config):
        if not path.is_file():
            raise InputError(f"model.adapter={folder} has no {path.name}.")
    _refuse_outside(folder, weights, str(weights))
    keys = read_object(config)
    _refuse_code(config, keys, [key for key in ADAPTER_CODE_KEYS if keys.get(key) is not None])
    from peft import PeftType

    known = sorted(PeftType)
    if keys.get("peft_type") not in known:
        raise InputError(
            f"{config}: peft_type is {keys.get('peft_type')!r}, expected one that PEFT knows: {', '.join(known)}"
        )


def check_hub(name: str, revision: str | None) -> str:
    """The same for a model of the hub, of which only small JSON files are fetched; the commit that was looked at.

    Raises:
        InputError: the hub or its cache has no such model, or it asks for more than its own safetensors.
    """
    try:
        config = _from_hub(name, CONFIG, revision, must=True)
        assert config is not None
        snapshot = config.parent
        commit = (
            snapshot.name
        )  # what is loaded is what was looked at, whatever the branch is moved to
        _from_hub(name, INDEX, commit)
        adapter = _from_hub(name, ADAPTER_CONFIG, commit)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model.path={name} is neither a folder here nor a model that could be had from the hub "
            f"(no network, or no such id). Give a local folder, or download it first. It said: "
            f"{' '.join(str(error).split())[:160]}"
        ) from error
    if adapter is not None:
        raise InputError(
            f"model.path={name} is an adapter, or holds one ({ADAPTER_CONFIG}). Give its model as model.path and it as "
            "model.adapter."
        )
    check_model(snapshot, whole=False)
    return commit


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file of a model holds, which must be an object.

    Raises:
        InputError: it is not JSON, or something else.
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
                f"{path} asks for code or weights of its own ({key}), which are never run or loaded. Remove the key if "
                "you can."
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
        _refuse_outside(folder, folder / name, f"{path} names {name!r}, which")


def _refuse_outside(folder: Path, file: Path, what: str) -> None:
    """Refuses a link out of the folder; a snapshot of the hub's cache has its files in `blobs` beside it."""
    allowed = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        allowed.append(folder.resolve().parents[1] / "blobs")
    if file.exists() and not any(file.resolve().is_relative_to(one) for one in allowed):
        raise InputError(
            f"{what} is a link to {file.resolve()}, out of its folder. Put the file itself there."
        )


def _from_hub(name: str, file: str, revision: str | None, must: bool = False) -> Path | None:
    """A file of a model of the hub, in the cache; None where the model has no such file."""
    from huggingface_hub.constants import is_offline_mode
    from transformers.utils.hub import cached_file

    found = cached_file(
        name,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=must,
        # A file that could not be asked for is not one that is not there; offline there is only the cache.
        _raise_exceptions_for_connection_errors=must or not is_offline_mode(),
    )
    return None if found is None else Path(found)
