"""Refuses quantised weights: whole numbers that a quantiser's code converts to floating point.

At best they have the gradient of the rounded model, and often none. Each refusal names what to load instead.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from saliency_bench.core.errors import InputError

#: The keys of config.json under which quantisers describe the weights.
KEYS = ("quantization_config", "compression_config")
#: Quantisers that have a key of their own in this description.
_FLAGS = {"load_in_4bit": "bitsandbytes", "load_in_8bit": "bitsandbytes"}
#: The packages whose layers hold quantised weights, by the start of their modules' names.
_LAYERS = {
    "torch.ao.nn.quantized": "torch.ao",
    "bitsandbytes.": "bitsandbytes",
    "gptqmodel.": "GPTQ",
    "auto_gptq.": "GPTQ",
    "awq.": "AWQ",
    "optimum.quanto": "quanto",
    "hqq.": "HQQ",
    "transformers.integrations.finegrained_fp8": "FP8",
}
_INSTEAD = "the checkpoint that it was quantised from, with weights in float32, bfloat16 or float16, which its model card names"


def refuse_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuses a configuration of quantised weights.

    Raises:
        InputError: names the quantiser.
    """
    for key in KEYS:
        if (stored := config.get(key)) is not None:
            kinds = stored if isinstance(stored, Mapping) else {}
            named = kinds.get("quant_method") or next(
                (name for flag, name in _FLAGS.items() if kinds.get(flag)), key
            )
            raise InputError(
                f"{path} is of quantised weights ({named}): give {_INSTEAD}; or remove {key}, if the weights in the folder are "
                "not quantised any more"
            )


def refuse_gguf(folder: Path, weights: tuple[str, ...]) -> None:
    """Refuses a GGUF file, and a folder that has one and none of the usual weights.

    Raises:
        InputError: names the file.
    """
    files = [folder] if folder.suffix == ".gguf" else sorted(folder.glob("*.gguf"))
    if not files or any((folder / name).exists() for name in weights):
        return
    file = files[0]
    raise InputError(
        f"model.path={folder} has quantised weights in GGUF ({file.name}): give {_INSTEAD}, or what transformers' "
        f"from_pretrained({str(file.parent)!r}, gguf_file={file.name!r}) makes of it, its config.quantization_config removed, "
        "saved by save_pretrained"
    )


def refuse_layers(module: nn.Module) -> None:
    """Refuses a module with layers of quantised weights.

    Raises:
        InputError: names the first of them.
    """
    for name, part in module.named_modules():
        package = type(part).__module__
        if quantiser := next(
            (q for start, q in _LAYERS.items() if package.startswith(start)), None
        ):
            raise InputError(
                f"{type(module).__name__} is quantised ({name} of {quantiser} computes in whole numbers), so that nothing has "
                f"an exact gradient: give the module as it was before, or {_INSTEAD}"
            )
