"""Runs with invented numbers: what a report is made of, without a model."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from saliency_bench.attribution.describe import described
from saliency_bench.core.rows import TABLES, Setting
from saliency_bench.store.parquet import to_table
from saliency_bench.store.run import Run

CELL = "cell"
#: Metric: unit, higher_is_better, mean of the best method, spread over examples.
METRICS = {
    "srg": ("probability", True, 0.30, 0.20),
    "comprehensiveness": ("probability", True, 0.35, 0.20),
    "sufficiency": ("probability", False, 0.10, 0.15),
    "aopc_comprehensiveness_full": ("probability", True, 0.40, 0.15),
    "aopc_sufficiency_full": ("probability", False, 0.10, 0.15),
    "deletion_auc": ("probability", False, 0.45, 0.15),
    "insertion_auc": ("probability", True, 0.75, 0.15),
    "deletion_auc_normalized": ("1", False, 0.40, 0.20),
    "insertion_auc_normalized": ("1", True, 0.80, 0.20),
    "log_odds": ("nats", False, -2.0, 1.0),
    "decision_flip_fraction": ("1", False, 0.30, 0.20),
    "completeness_gap": ("output", False, 1e-6, 5e-7),
    "completeness_gap_relative": ("1", False, 1e-5, 5e-6),
}
WORDS = [
    "a",
    "gripping",
    ",",
    "unexpectedly",
    "funny",
    "film",
    "that",
    "never",
    "loses",
    "its",
    "nerve",
    "but",
    "the",
    "plot",
    "is",
    "thin",
    "and",
    "the",
    "ending",
    "feels",
    "rushed",
    "dull",
    "charmless",
    "overlong",
    "tender",
    "sharp",
    "acting",
    "saves",
    "it",
]


def settings_of(*methods: str, backends: Sequence[str] = ("native", "captum")) -> list[Setting]:
    """The settings of named methods, rankings included once."""
    hyper: dict[str, dict[str, Any]] = {
        "smoothgrad": {"n_samples": 25, "noise_std": 0.1},
        "integrated_gradients": {
            "baseline": "mask",
            "n_steps": 50,
            "quadrature": "gauss_legendre",
        },
        "random": {"n_rankings": 10},
        "leave_one_out": {"removal": "mask"},
    }
    found = []
    for method in methods:
        ranking = method in ("random", "leave_one_out")
        reduction = "none" if ranking else "l2" if method in ("vanilla", "smoothgrad") else "sum"
        for backend in ["none"] if ranking else backends:
            given = hyper.get(method, {})
            found.append(
                Setting(method, method, backend, reduction, "predicted", "logit", 0, given)
            )
    return found


def quality(setting: Setting) -> float:
    """How good an invented method is, from 0 (random) to 1."""
    base = {"random": 0.0, "vanilla": 0.3, "input_x_gradient": 0.4, "smoothgrad": 0.5}
    better = {"integrated_gradients": 0.8, "leave_one_out": 1.0}
    steps = setting.hyper.get("n_samples", 25)
    noise = abs(np.log10(setting.hyper.get("noise_std", 0.2) / 0.2))
    return (base | better).get(setting.method, 0.6) + 0.05 * np.log2(steps / 25) - 0.2 * noise


def generator(*names: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(names).encode()))


def n_gradients(setting: Setting) -> int:
    if setting.method in ("random", "leave_one_out"):
        return 0
    return int(setting.hyper.get("n_steps", setting.hyper.get("n_samples", 1)))


def example_rows(n: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(n):
        rng = generator("example", i)
        text = " ".join(rng.choice(WORDS, rng.integers(6, 16)))
        gold, predicted = int(rng.random() < 0.5), int(rng.random() < 0.5)
        if i % 4:
            predicted = gold
        names = ("negative", "positive")
        rows.append(
            {
                "cell_id": CELL,
                "example_id": f"e{i:03d}",
                "text": text,
                "text_pair": None,
                "gold": gold,
                "gold_label": names[gold],
                "predicted": predicted,
                "predicted_label": names[predicted],
                "probability": float(0.5 + 0.5 * rng.random()),
                "correct": gold == predicted,
                "n_tokens": len(text.split()) + 2,
                "truncated": False,
            }
        )
    return rows


def metric_row(setting: Setting, example: str, metric: str) -> dict[str, Any]:
    unit, higher, best, spread = METRICS[metric]
    row = {
        "cell_id": CELL,
        "setting_id": setting.id,
        "example_id": example,
        "metric": metric,
        "removal": None if metric.startswith("completeness") else "mask",
        "value": None,
        "unit": unit,
        "higher_is_better": higher,
        "status": "ok",
        "reason": None,
    }
    if metric.startswith("completeness"):
        if setting.method != "integrated_gradients":
            reason = f"{setting.method} does not claim completeness"
            return row | {"status": "not_applicable", "reason": reason}
        order = {"left": 1, "right": 1, "midpoint": 2, "trapezoid": 2}.get(
            setting.hyper["quadrature"], 4
        )
        scale = 3.0 * float(setting.hyper["n_steps"]) ** -order
        return row | {"value": scale * float(generator(example, "gap").lognormal(0, 0.5))}
    worst = best - spread if higher else best + spread
    if metric == "srg":
        worst = 0.0
    common = spread * generator(example, metric).normal()
    own = 0.5 * spread * generator(setting.id, example, metric).normal()
    return row | {"value": worst + quality(setting) * (best - worst) + common + own}


def curve_rows(setting: Setting, example: dict[str, Any]) -> list[dict[str, Any]]:
    n = len(example["text"].split())
    rng = generator("curve", setting.id, example["example_id"])
    speed = 1 + 2 * quality(setting) + 0.5 * rng.random()
    rows = []
    for k in range(n + 1):
        left = 1 - k / n
        down = 0.3 + (example["probability"] - 0.3) * left**speed
        up = 0.3 + (example["probability"] - 0.3) * (1 - left**speed)
        rows.append(
            {
                "cell_id": CELL,
                "setting_id": setting.id,
                "example_id": example["example_id"],
                "removal": "mask",
                "k": k,
                "n_units": n,
                "deletion": down,
                "insertion": up,
                "flipped": down < 0.5,
            }
        )
    return rows


def map_row(setting: Setting, example: dict[str, Any]) -> dict[str, Any]:
    words = example["text"].split()
    # Both backends compute the same scores, up to rounding.
    twin = replace(setting, backend="native").id
    scores = generator("map", twin, example["example_id"]).normal(size=len(words)) / 4
    if setting.backend == "captum":
        scores = scores * (1 + 1e-7)
    if setting.reduction == "l2":
        scores = np.abs(scores)
    starts = np.cumsum([0] + [len(word) + 1 for word in words[:-1]])
    n = len(words)
    return {
        "cell_id": CELL,
        "setting_id": setting.id,
        "example_id": example["example_id"],
        "target": example["predicted"],
        "label": example["predicted_label"],
        "probability": example["probability"],
        "tokens": ["[CLS]", *words, "[SEP]"],
        "token_ids": [101, *range(1000, 1000 + n), 102],
        "attributable": [False, *[True] * n, False],
        "starts": [-1, *(int(start) for start in starts), -1],
        "ends": [-1, *(int(s) + len(w) for s, w in zip(starts, words, strict=True)), -1],
        "segments": [-1, *[0] * n, -1],
        "words": [-1, *range(n), -1],
        "scores": [0.0, *scores.tolist(), 0.0],
        "completeness_gap": None,
        "output_difference": None,
        "n_gradients": n_gradients(setting),
        **sureness(setting, example, len(scores)),
    }


def sureness(setting: Setting, example: dict[str, Any], n: int) -> dict[str, Any]:
    """What is known of the convergence of an invented map: means over draws have standard errors."""
    if "n_samples" not in setting.hyper:
        return dict.fromkeys(("standard_errors", "split_half_tau", "error", "converged"))
    error = 0.5 / np.sqrt(setting.hyper["n_samples"])
    return {
        "standard_errors": [0.0, *[float(error)] * n, 0.0],
        "split_half_tau": float(1 - error * generator(example["example_id"], "half").random()),
        "error": float(error),
        "converged": None,
    }


def convergence_rows(
    settings: Sequence[Setting], examples: Sequence[str], n_unsure: int
) -> list[dict[str, Any]]:
    """Integrated Gradients against a reference; the first texts have not converged."""
    return [
        {
            "cell_id": CELL,
            "setting_id": setting.id,
            "example_id": example,
            "against": "reference",
            "tau": 0.5 if place < n_unsure else 0.99,
            "error": (1 + place) * float(setting.hyper["n_steps"]) ** -2,
        }
        for setting in settings
        if "n_steps" in setting.hyper
        for place, example in enumerate(examples)
    ]


def agreement_rows(settings: Sequence[Setting], examples: list[dict[str, Any]]) -> list[Any]:
    rows = []
    for i, a in enumerate(settings):
        for b in settings[i + 1 :]:
            near = 0.9 - abs(quality(a) - quality(b)) if "none" not in (a.backend, b.backend) else 0
            rows += [
                {
                    "cell_id": CELL,
                    "setting_a": a.id,
                    "setting_b": b.id,
                    "example_id": example["example_id"],
                    "metric": "kendall_tau",
                    "chance": 0.0,
                    "value": float(np.clip(near + generator(a.id, b.id, i).normal() / 9, -1, 1)),
                    "status": "ok",
                    "reason": None,
                }
                for example in examples
            ]
    return rows


def timing_rows(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    return [
        {
            "cell_id": CELL,
            "setting_id": setting.id,
            "repeat": repeat,
            "seconds": 0.32
            * (1 + n_gradients(setting))
            * (1.4 if setting.backend == "captum" else 1)
            + 0.01 * repeat,
            "n_examples": 32,
            "n_tokens": 640,
            "n_gradients": 32 * n_gradients(setting),
            "peak_bytes": None,
            "device": "cpu",
        }
        for setting in settings
        for repeat in range(3)
    ]


def frame(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table as `store.read_run` gives it."""
    return to_table(name, rows).to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)


def build_run(
    folder: Path,
    settings: Sequence[Setting],
    n_examples: int = 20,
    metrics: Sequence[str] = tuple(METRICS),
    timed: bool = True,
    n_unsure: int = 0,
    **manifest: Any,
) -> Run:
    """A run with invented numbers."""
    examples = example_rows(n_examples)
    ids = [example["example_id"] for example in examples]
    rows = {
        "examples": examples,
        "rows": [metric_row(s, e, m) for s in settings for e in ids for m in metrics],
        "curves": [row for s in settings for e in examples for row in curve_rows(s, e)],
        "maps": [map_row(s, e) for s in settings for e in examples],
        "agreement": agreement_rows(settings, examples),
        "convergence": convergence_rows(settings, ids, n_unsure),
        "timings": timing_rows(settings) if timed else [],
        "warnings": [
            {
                "cell_id": CELL,
                "example_id": "e001",
                "source": "e001",
                "message": "the text is longer than the model allows and was cut",
            }
        ],
    }
    return Run(
        folder=folder,
        manifest={
            "name": "study",
            "command": "saliency-bench experiment=study",
            "reference_setting": settings[0].id,
            "split": "test",
            "n_examples": n_examples,
            "model": {"name": "tiny-bert", "labels": ["negative", "positive"]},
            "data": {"dataset": "movie_reviews", "split": "test", "sha256": "0" * 64},
            "config": {
                "seed": 0,
                "output": "logit",
                "target": "predicted",
                "evaluation": {"removal": "mask", "output": "probability"},
                "convergence": {"largest_gap": 0.05, "smallest_tau": 0.95},
                "statistics": {"reference": None, "confidence": 0.95, "n_resamples": 999},
                "report": {"n_examples": 4},
            },
        }
        | manifest,
        settings=[described(setting) for setting in settings],
        tables={name: frame(name, rows[name]) for name in TABLES},
    )


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Run]:
    """`build_run` in a folder of its own."""
    return lambda *args, **kwargs: build_run(tmp_path / "run", *args, **kwargs)


SIX = ("vanilla", "integrated_gradients", "random", "leave_one_out")


@pytest.fixture
def run(make_run) -> Run:
    """Six settings on twenty examples: two methods by both backends, and both rankings."""
    return make_run(settings_of(*SIX))


@pytest.fixture(scope="session")
def reported(tmp_path_factory) -> Run:
    """The same run with its report written; not to be changed."""
    from saliency_bench.report.build import build_report

    run = build_run(tmp_path_factory.mktemp("reported"), settings_of(*SIX))
    build_report(run)
    return run


@pytest.fixture
def make_settings() -> Callable[..., list[Setting]]:
    """`settings_of`, for tests that need other settings."""
    return settings_of
