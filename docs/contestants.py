"""The measurements behind the settings of NoiseGrad, FusionGrad and DIG in docs/attribution.md.

    python docs/contestants.py [N_EXAMPLES] [FOLDER]

Noise on the weights: the accuracy of noisy models on validation sentences, for each σ, over that of the model itself. The
rule of NoiseGrad's authors is the σ at which it falls by about 5 %. DIG: the completeness gap |Σ - (F(x) - F(x'))| over
|F(x) - F(x')| with more points between the anchors.

Fixed before the run: the settings in conf/method stay unless SRG (mask) of validation sentences is higher with the others
(NoiseGrad: the σ of the rule; DIG: eight times the points), with a 95 % interval of the paired difference above 0.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import ttest_1samp

from benchmarks.record import ONE_THREAD, Record, examples_and_folder
from saliency_bench import attribute, evaluate
from saliency_bench.data import movie_reviews
from saliency_bench.data.example import Example
from saliency_bench.models.loading import load_default
from saliency_bench.models.model import Model
from saliency_bench.models.weights import multiplied_weights

SIGMAS = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4]
N_MODELS, N_SENTENCES, LARGEST_DROP = 5, 60, 0.05
SHIPPED_SIGMA = 0.1  # conf/method/noisegrad.yaml
FACTORS = [0, 1, 2, 3]  # 2^factor times the 31 points of conf/method/dig.yaml, whose factor is 0


def sentences(n: int) -> list[Example]:
    """The first validation sentences, in an order that a hash of their text gives."""
    return movie_reviews.load(split="validation", lexicon=None)[:n]


def accuracies(model: Model) -> pd.DataFrame:
    """A row for each σ: the mean accuracy of noisy models, and 1 - it over the accuracy of the model itself.

    σ = 0 is the model itself. Factors are 1 + σ ε with the same ε for every σ.
    """
    examples = sentences(N_SENTENCES)
    gold = np.array([example.label for example in examples])
    inputs = dict(
        model.tokenizer([example.text for example in examples], return_tensors="pt", padding=True)
    )

    def accuracy(sigma: float, number: int) -> float:
        noise = torch.Generator().manual_seed(number)

        def factor(_name: str, weight: torch.nn.Parameter) -> torch.Tensor:
            return 1 + sigma * torch.randn(weight.shape, generator=noise)

        with multiplied_weights(model, factor), torch.no_grad():
            return float(np.mean(model.module(**inputs).logits.argmax(-1).numpy() == gold))

    with model.frozen():
        rows = [{"sigma": 0.0, "number": 0, "accuracy": accuracy(0.0, 0)}]
        rows += [
            {"sigma": sigma, "number": number, "accuracy": accuracy(sigma, number)}
            for sigma in SIGMAS
            for number in range(N_MODELS)
        ]
    table = pd.DataFrame(rows).groupby("sigma")["accuracy"].agg(["mean", "min", "max"])
    return table.assign(drop=1 - table["mean"] / table["mean"].iloc[0], n=N_SENTENCES).reset_index()


def sigma_of_the_rule(table: pd.DataFrame) -> float:
    """The largest σ up to which no mean accuracy falls by more than 5 %."""
    too_much = table["drop"].gt(LARGEST_DROP).cummax()
    return float(table["sigma"][~too_much].max())


def srg(model: Model, n_examples: int, method: str, **given: Any) -> pd.DataFrame:
    """A row for each sentence and setting: SRG by the mask token, the completeness gap and the gradients."""
    (axis,) = (name for name, value in given.items() if isinstance(value, list))
    maps = attribute(model, [example.text for example in sentences(n_examples)], method, **given)
    values = evaluate(model, maps, "srg", removal="mask")["value"]
    return pd.DataFrame(
        {
            "method": method,
            "setting": [made.setting[axis] for made in maps],
            "sentence": [made.input_index for made in maps],
            "srg": list(values),
            "gap": [_relative_gap(made) for made in maps],
            "n_gradients": [made.n_gradients for made in maps],
        }
    )


def _relative_gap(made: Any) -> float | None:
    if made.completeness_gap is None:
        return None
    return abs(float(made.completeness_gap / made.output_difference))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each setting the means, and the paired difference in SRG from the first setting with Student's 95 % interval."""
    lines = []
    for method, cells in rows.groupby("method", sort=False):
        wide = cells.pivot(index="sentence", columns="setting", values="srg")
        for setting in sorted(wide):
            these = cells[cells["setting"] == setting]
            line = {"method": method, "setting": setting, "n": len(these)}
            line |= {"srg": these["srg"].mean(), "n_gradients": these["n_gradients"].max()}
            line |= {"median_gap": these["gap"].median(), "largest_gap": these["gap"].max()}
            difference = wide[setting] - wide[wide.columns[0]]
            if difference.any():
                low, high = ttest_1samp(difference, 0).confidence_interval(0.95)
                line |= {"difference": difference.mean(), "low": low, "high": high}
            lines.append(line)
    return pd.DataFrame(lines)


def main() -> None:
    """Writes the accuracies, the rows of sentences, their summary and a manifest."""
    n_examples, folder = examples_and_folder("contestants", 20)
    record = Record("docs/contestants.py", str(n_examples))
    torch.set_num_threads(1)
    model = load_default(device="cpu")
    noisy = accuracies(model)
    print(noisy.round(4).to_string(), flush=True)
    noisy.round(4).to_csv(folder / "weight_noise.csv", index=False)
    sigmas = sorted({SHIPPED_SIGMA, sigma_of_the_rule(noisy)})
    rows = pd.concat(
        [
            srg(model, n_examples, "noisegrad", weight_noise=sigmas),
            srg(model, n_examples, "dig", baseline="mask", factor=FACTORS),
        ]
    )
    rows.round(5).to_csv(folder / "rows.csv", index=False)
    summary(rows).round(4).to_csv(folder / "summary.csv", index=False)
    print(summary(rows).round(4).to_string())
    record.write(folder, {"name": "contestants"}, **ONE_THREAD, n_examples=n_examples)


if __name__ == "__main__":
    main()
