"""Adapters of PEFT: finds their files, reads their tensors and merges them into a model's weights."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from saliency_bench.core.errors import InputError, is_out_of_memory, one_line
from saliency_bench.models.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_adapter
from saliency_bench.models.threads import PROCESS


def adapter_files(adapter: str) -> Path:
    """The folder of an adapter: a local one, or fetched from the hub without pickled files.

    Raises:
        InputError: there is no such adapter, or it needs other files than its own safetensors.
    """
    from huggingface_hub import snapshot_download

    folder = Path(adapter).expanduser()
    if not folder.is_dir():
        try:
            wanted = [ADAPTER_CONFIG, ADAPTER_WEIGHTS]
            folder = Path(snapshot_download(adapter, allow_patterns=wanted))
        except Exception as error:  # the hub's errors are of many types
            raise InputError(
                f"model.adapter={adapter} is neither a local folder nor an adapter that could be loaded from the hub."
            ) from error
    check_adapter(folder)
    return folder


def tensor_shapes(adapter: Path) -> dict[str, Sequence[int]]:
    """The shapes of an adapter's tensors by name.

    Raises:
        InputError: its file cannot be read.
    """
    path = adapter / ADAPTER_WEIGHTS
    try:
        with safe_open(path, "pt") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is no safetensors file that can be read: {error}. Save the adapter again."
        ) from error


def number_of_classes(shapes: Mapping[str, Sequence[int]]) -> int | None:
    """The number of classes of the head among an adapter's tensors; None where there is no head."""
    heads = [
        shape
        for name, shape in shapes.items()
        if shape and re.search(r"(classifier|out_proj|score)\.weight$", name)
    ]
    return heads[-1][0] if heads else None


def merge_adapter(module: nn.Module, adapter: Path) -> nn.Module:
    """The module with the adapter of a folder merged into its weights.

    Raises:
        InputError: the adapter does not fit the module, or needs other files than its own safetensors.
    """
    from peft import PeftConfig, PeftModel

    keys = check_adapter(adapter)
    try:
        with PROCESS, warnings.catch_warnings():
            # peft 0.21 uses functions that transformers 5 has deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            # PEFT would use random numbers for missing tensors.
            warnings.filterwarnings("error", ".*missing adapter keys", UserWarning)
            # With this configuration, PEFT does not read the one of the folder.
            config = PeftConfig.from_peft_type(**keys)  # type: ignore[no-untyped-call]
            adapted = PeftModel.from_pretrained(module, str(adapter), config=config)
            merged: nn.Module = adapted.merge_and_unload()
    except Exception as error:  # PEFT's errors are of many types; a missing head is a KeyError
        if is_out_of_memory(error):
            raise
        text = one_line(error)
        if isinstance(error, KeyError):
            text = f"it lacks the tensor {text}"
        raise InputError(f"model.adapter={adapter} does not fit the model: {text}") from error
    return merged
