"""The measurement behind "how many samples" in docs/attribution.md: does a Sobol sequence lower SmoothGrad's error?

    python docs/quasi_monte_carlo.py [N_EXAMPLES] [FOLDER]

Noise of the bundled model's test sentences, at equal numbers of draws: independent; in antithetic pairs; in centred
blocks of four, as shipped; and from a scrambled Sobol sequence, whose points stand for the coordinates of the noise in a
random subspace (all others independent), or for all of them. A text has at most 64 tokens here. The error is that of the l2
scores of a text, as a norm over its tokens, relative to the scores of many more antithetic draws; the root of its mean square
over seeds and texts.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm, qmc

from benchmarks.record import ONE_THREAD, Record, examples_and_folder
from saliency_bench.data import movie_reviews
from saliency_bench.models.loading import load_default
from saliency_bench.models.model import Model

DRAWS = [8, 16, 32]
SIGMAS = [0.1, 0.5]  # in standard deviations of the embedding matrix
N_SEEDS, N_REFERENCE = 4, 1024
SUBSPACES = [32]
MOST_TOKENS = 64
MOST_SOBOL = 21_201  # dimensions that scipy has direction numbers for

#: Of a number of dimensions and a seed: DRAWS[-1] noises, each N(0, I), of which the first n serve n draws.
Sampler = Callable[[int, int], np.ndarray]


def iid(size: int, seed: int) -> np.ndarray:
    """Independent normal numbers."""
    return np.random.default_rng(seed).standard_normal((DRAWS[-1], size))


def antithetic(size: int, seed: int) -> np.ndarray:
    """Every noise with both signs."""
    return np.repeat(iid(size, seed)[::2], 2, 0) * np.resize([1, -1], DRAWS[-1])[:, None]


def centred(size: int, seed: int) -> np.ndarray:
    """Blocks of four that sum to 0."""
    blocks = iid(size, seed).reshape(-1, 4, size)
    return ((blocks - blocks.mean(1, keepdims=True)) * (4 / 3) ** 0.5).reshape(-1, size)


def sobol(size: int, seed: int) -> np.ndarray:
    """A scrambled Sobol sequence in all dimensions."""
    points = qmc.Sobol(size, seed=np.random.default_rng(seed)).random(DRAWS[-1])
    return np.asarray(norm.ppf(np.clip(points, 1e-9, 1 - 1e-9)))


def sobol_in(dimensions: int) -> Sampler:
    """The same in a random subspace, and independent numbers across it."""

    def draw(size: int, seed: int) -> np.ndarray:
        noise = iid(size, seed)
        across = np.random.default_rng([seed, 1]).standard_normal((size, dimensions))
        basis = np.linalg.qr(across)[0]
        return noise + (sobol(dimensions, seed) - noise @ basis) @ basis.T

    return draw


SAMPLERS: dict[str, Sampler] = {
    "iid": iid,
    "antithetic": antithetic,
    "centred": centred,
    **{f"sobol, {n} dimensions": sobol_in(n) for n in SUBSPACES},
    "sobol, all dimensions": sobol,
}


def scores(
    model: Model, ids: torch.Tensor, target: int, noise: np.ndarray
) -> dict[int, np.ndarray]:
    """The l2 scores of the mean gradient over the first n noises, for each n of DRAWS and for all."""
    embeddings = model.embed(ids)
    shape = embeddings.shape[1:]
    gradients = []
    for part in np.array_split(noise, -(-len(noise) // 64)):
        points = embeddings + torch.from_numpy(part.reshape(-1, *shape)).to(embeddings)
        points.requires_grad_()
        logits = model.output(ids.expand(len(points), -1), embeddings=points)
        (gradient,) = torch.autograd.grad(logits[:, target].sum(), points)
        gradients.append(gradient.double().numpy())
    means = np.cumsum(np.concatenate(gradients), 0)
    return {
        n: np.linalg.norm(means[n - 1] / n, axis=-1)
        for n in (*DRAWS, len(noise))
        if n <= len(noise)
    }


def rows(n_examples: int) -> pd.DataFrame:
    """A row for each text, σ, sampler, seed and number of draws."""
    model = load_default()
    errors = []
    with model.frozen():
        std = float(model.embedding.weight.detach().std())
        for index, example in enumerate(
            movie_reviews.load(split="test", lexicon=None)[:n_examples]
        ):
            ids = model.tokenizer(example.text, return_tensors="pt")["input_ids"][:, :MOST_TOKENS]
            target = int(model.output(ids)[0].argmax())
            size = model.embed(ids)[0].numel()
            for sigma in SIGMAS:
                half = np.random.default_rng([7, index]).standard_normal((N_REFERENCE // 2, size))
                both = sigma * std * np.concatenate([half, -half])
                truth = scores(model, ids, target, both)[N_REFERENCE]
                for name, sampler in SAMPLERS.items():
                    if name == "sobol, all dimensions" and size > MOST_SOBOL:
                        continue
                    for seed in range(N_SEEDS):
                        drawn = scores(model, ids, target, sigma * std * sampler(size, seed))
                        for n in DRAWS:
                            error = np.linalg.norm(drawn[n] - truth) / np.linalg.norm(truth)
                            errors.append((index, sigma, name, seed, n, float(error)))
    columns = ["example", "sigma_std", "sampler", "seed", "n_samples", "error"]
    return pd.DataFrame(errors, columns=columns)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Root mean square errors over texts and seeds."""
    keys = ["sigma_std", "n_samples", "sampler"]
    errors = table.groupby(keys, sort=False)["error"].agg(
        lambda group: float(np.sqrt((group**2).mean()))
    )
    wide = errors.unstack("sampler")[list(SAMPLERS)]
    return wide.reset_index()


def main() -> None:
    """Writes the rows, their summary and a manifest."""
    n_examples, folder = examples_and_folder("quasi_monte_carlo", 5)
    record = Record("docs/quasi_monte_carlo.py", str(n_examples))
    torch.set_num_threads(1)
    table = rows(n_examples)
    table.round({"error": 6}).to_csv(folder / "errors.csv", index=False)
    summary(table).round(4).to_csv(folder / "summary.csv", index=False)
    print(summary(table).round(4).to_string())
    record.write(folder, {"name": "quasi_monte_carlo"}, **ONE_THREAD, n_examples=n_examples)


if __name__ == "__main__":
    main()
