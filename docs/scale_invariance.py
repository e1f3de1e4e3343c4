"""The measurement behind "zero baselines" in docs/attribution.md: completeness gaps of models that see no scale.

    python docs/scale_invariance.py [FOLDER]

A Llama normalises each embedding by its root mean square first and adds no positions, so that its output does not
change on the way from the input to zero until it is almost there. Random weights are enough to show it; a BERT
of the same size stands beside it.
"""

import sys
from pathlib import Path

import pandas as pd
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

import saliency_bench as sb
from benchmarks.record import Record

N_STEPS = [16, 32, 64, 128, 256]
SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


def models() -> dict[str, PreTrainedModel]:
    """The two, with random weights in float64."""
    torch.manual_seed(0)
    return {
        "bert": BertForSequenceClassification(BertConfig(**SHAPE)).double(),
        "llama": LlamaForSequenceClassification(LlamaConfig(**SHAPE)).double(),
    }


def texts(n: int = 24, length: int = 9) -> list[dict[str, list[int]]]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, SHAPE["vocab_size"], (n, length), generator=generator)
    return [{"input_ids": row} for row in ids.tolist()]


def rows() -> pd.DataFrame:
    """Median relative gap over the texts, by model, baseline and rule."""
    found = []
    for name, module in models().items():
        model = sb.wrap_model(module)
        for baseline in ("mean", "zero"):
            options = {"n_steps": N_STEPS, "baseline": baseline, "quadrature": "gauss_legendre"}
            maps = sb.attribute(model, texts(), method="integrated_gradients", **options)
            for one in maps:
                gap = abs(one.completeness_gap / one.output_difference)
                found.append((name, baseline, one.setting["n_steps"], gap))
    table = pd.DataFrame(found, columns=["model", "baseline", "n_steps", "relative_gap"])
    return table.groupby(["model", "baseline", "n_steps"], as_index=False).median()


def main(folder: Path = Path("results/scale_invariance")) -> None:
    """Measures, and writes the table and its manifest."""
    record = Record("docs/scale_invariance.py")
    table = rows()
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "gaps.csv", index=False, float_format="%.3g")
    computation = {"device": "cpu", "dtype": "float64", "threads": torch.get_num_threads()}
    record.write(folder, {"name": "scale_invariance"}, **computation)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
