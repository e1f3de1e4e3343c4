"""What a model does on a GPU: rates, share of the peak, tokens per pass, idle share and errors, of every type.

    python -m benchmarks.gpu_cost MODEL OUT

Sections, each printed when it is done: matrix products; texts of 32 tokens, of 16 to 128, and of 128. In each, 512 texts get
Integrated Gradients, SmoothGrad, deletion and insertion curves of a random ranking, and method_comparison with few samples,
rankings and points of curves. A section has an equal share of the seconds that are left. A case that does not fit ends after a
block, or does not begin; `n` says how many texts it had, `left_out` the reason. OUT/rows.csv is written after every case.

- product: operations of products of the model's shapes, in 10^12 per second, beside each case.
- share: useful operations of the gradients, without padding, over those of the products in the same time.
- tokens_per_pass: of all passes through the model, padding included.
- idle: the share of the time in which the device runs nothing. Of a few texts: one minus the time with a kernel or a copy,
  by the profiler, over the time without the profiler.
- error: of these texts, the median of the largest difference from float64 over the text's largest number.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.record import Record
from saliency_bench.cli import config
from saliency_bench.core.rows import Setting
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.view import View
from saliency_bench.experiments.throughput.contestants import Scores, setting_of
from saliency_bench.experiments.throughput.floor import encoder_of, gradient_flops, layer_products
from saliency_bench.experiments.throughput.trial import differences
from saliency_bench.models.loading import load_model
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import OpenBlock, open_block, packing_of_study, plan_blocks
from saliency_bench.studies.block_tables import block_tables
from saliency_bench.studies.evaluate import evaluate_block
from saliency_bench.studies.prepare import Inputs, prepare
from saliency_bench.studies.timing import measure, synchronizer

DEVICE, SECONDS, INTERRUPTED, NO_TIME = "cuda", 280.0, 130, "no time left"
N_TEXTS, N_FEW, N_POINTS, TOKEN_BUDGET, LARGE = 512, 32, 8, 16384, 8192
LENGTHS = {"32 tokens": (32, 32), "16 to 128 tokens": (16, 128), "128 tokens": (128, 128)}
DTYPES = ("bfloat16", "tf32", "float32")  # the slowest last
CURVES = {name: {"metric": name, "grid": "deciles"} for name in ("deletion_auc", "insertion_auc")}
#: Points of curves, samples and rankings are fewer than in conf/experiment/method_comparison.yaml.
COMPARISON = (
    *("experiment=method_comparison", "timing.enabled=false", "target=0", "metric=[deletion_auc,insertion_auc]"),
    *("metric.deletion_auc.grid=deciles", "metric.insertion_auc.grid=deciles", "method.random.n_rankings=2"),
)  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """`run` gives the numbers of each text of a block. `n_gradients` is what a text takes; None: that is not fixed."""

    run: Callable[[Sequence[Encoded]], Scores]
    n_gradients: int | None = None


def works(references: References, texts: Sequence[Encoded]) -> dict[str, Work]:
    """The work of a section, by name; the model must be frozen when it is run."""

    def opened(items: Sequence[Encoded], *settings: Setting) -> OpenBlock:
        return open_block(references, items, 0, TOKEN_BUDGET, settings)

    def maps_by(name: str, **options: Any) -> Callable[[Sequence[Encoded]], Scores]:
        setting = setting_of(name, **options)
        return lambda items: [
            map_.scores for map_ in opened(items, setting).explain([setting])[setting.id]
        ]

    def curves(items: Sequence[Encoded]) -> Scores:
        block = opened(items)
        (maps,) = block.explain([setting_of("random", n_rankings=2)]).values()
        view = View("mask", "token", "probability", "signed")
        return numbers(evaluate_block(block, maps, CURVES, [view]).rows, items)

    @cache
    def study() -> Any:
        cfg = config.load([
            *COMPARISON, f"runtime.device={DEVICE}", f"runtime.token_budget={TOKEN_BUDGET}",
            f"method.smoothgrad.n_samples={N_POINTS}",
        ])  # fmt: skip
        inputs = Inputs(references.model, texts, [""] * len(texts))
        return prepare(cfg, config.settings(cfg), inputs=inputs)

    def comparison(items: Sequence[Encoded]) -> Scores:
        return numbers(block_tables(study(), references, items, ())["rows"], items)

    steps = {"n_steps": N_POINTS, "quadrature": "gauss_legendre"}
    return {
        "integrated_gradients": Work(maps_by("integrated_gradients", **steps), N_POINTS),
        "smoothgrad": Work(maps_by("smoothgrad", n_samples=N_POINTS), N_POINTS),
        "curves": Work(curves),
        "method_comparison": Work(comparison),
    }


def numbers(rows: Iterable[Mapping[str, Any]], items: Sequence[Encoded]) -> Scores:
    """The values of the rows of each text; 0 for one that is none."""
    values: dict[str, list[float]] = {item.example_id: [] for item in items}
    for row in rows:
        values[row["example_id"]].append(row["value"])
    return [np.nan_to_num(np.array(of_text, float)) for of_text in values.values()]


def random_texts(model: Model, shortest: int, longest: int) -> list[Encoded]:
    """Texts of random tokens between the tokenizer's first and last, of lengths in this range."""
    rng, tokenizer = np.random.default_rng(0), model.tokenizer
    lengths = rng.integers(shortest, longest + 1, N_TEXTS)
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    rows = [[first, *rng.integers(5, model.vocabulary, n - 2).tolist(), last] for n in lengths]
    return [
        encoded_ids(model, {"input_ids": ids}, str(place), None, "")
        for place, ids in enumerate(rows)
    ]


def blocks_of(model: Model, texts: Sequence[Encoded]) -> list[list[Encoded]]:
    """The blocks of a study of these texts."""
    plan = plan_blocks(texts, packing_of_study(model, TOKEN_BUDGET, texts))
    return [[texts[index] for index in block.indices] for block in plan]


def measured(
    model: Model, work: Work, texts: Sequence[Encoded], few: Scores, until: float
) -> Iterator[Row]:
    """Parts of a case's row, as they are measured; `few` are the expected numbers of the first texts."""
    wait, sample = synchronizer(model.device), blocks_of(model, texts[:N_FEW])
    values = [of_text for block in sample for of_text in work.run(block)]  # warms up, too
    yield {"error": float(np.median(differences(values, few)))}
    before, lengths = model.ledger.copy(), list[int]()
    wait()
    start = time.perf_counter()
    for block in blocks_of(model, texts):
        if time.perf_counter() > until:
            yield {"left_out": f"{len(texts) - len(lengths)} texts: {NO_TIME}"}
            break
        work.run(block)
        lengths += map(len, block)
    wait()
    seconds, spent = time.perf_counter() - start, model.ledger.since(before)
    if not lengths:
        return
    passed = spent.total.gradient_tokens + spent.total.forward_tokens
    yield {
        "n": len(lengths),
        "seconds": seconds,
        "texts_per_second": len(lengths) / seconds,
        "tokens_per_second": sum(lengths) / seconds,
        "tokens_per_pass": passed / spent.calls,
        "product": (product := product_rate(model)),
    }
    if work.n_gradients and (sizes := encoder_of(model.module)):
        useful = gradient_flops(*sizes, lengths, work.n_gradients) / seconds
        yield {"share": useful / (1e12 * product)}
    yield {"idle": idle_share(lambda: [work.run(block) for block in sample], model.device)}


def idle_share(run: Callable[[], object], device: torch.device) -> float:
    """The share of the time of a run in which a GPU does nothing; NaN elsewhere, and where the profiler sees nothing."""
    if device.type != "cuda":
        return np.nan
    wait = synchronizer(device)
    (seconds,) = measure({"": run}, n_repeats=1, n_warmup=0, synchronize=wait)[""]
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        wait()
    events = [event for event in profiler.events() or () if event.device_type == DeviceType.CUDA]
    spans = [(event.time_range.start, event.time_range.end) for event in events]
    return max(0.0, 1 - 1e-6 * covered(spans) / seconds) if spans else np.nan


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans."""
    total, end = 0.0, -np.inf
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def rate(multiply: Callable[[], object], n_operations: int, device: torch.device) -> float:
    """10^12 operations per second: the median of ten runs."""
    runs = measure({"": multiply}, n_repeats=10, n_warmup=2, synchronize=synchronizer(device))
    return n_operations / 1e12 / float(np.median(runs[""]))


def product_rate(model: Model) -> float:
    """The rate of products of the shapes in one of the model's layers; NaN for a model of unknown sizes."""
    sizes = encoder_of(model.module)
    if sizes is None:
        return np.nan
    return rate(*layer_products(sizes, TOKEN_BUDGET, model.device, model.dtype), model.device)


def products(models: Mapping[str, References]) -> Iterator[Row]:
    """The peak of each type: large square products, and those of the model's shapes."""
    for dtype in DTYPES:
        model = models[dtype].model
        left = torch.randn(LARGE, LARGE, device=model.device).to(model.dtype)
        with model.frozen():
            square = rate(lambda left=left: left @ left, 2 * LARGE**3, model.device)
            yield {"dtype": dtype, f"{LARGE}^3": square, "product": product_rate(model)}


def section(models: Mapping[str, References], name: str, until: float) -> Iterator[Row]:
    """A row for each kind of work in each type; what fails has its reason in the row."""
    exact = models["float64"].model
    texts = random_texts(exact, *LENGTHS[name])
    made = {dtype: works(model, texts) for dtype, model in models.items()}
    for kind, reference in made["float64"].items():
        few: Scores | None = None
        for dtype in DTYPES:
            row: Row = {"section": name, "work": kind, "dtype": dtype, "n": 0, "left_out": ""}
            try:
                if time.perf_counter() > until:
                    raise TimeoutError(NO_TIME)
                if few is None:
                    with exact.frozen():
                        blocks = blocks_of(exact, texts[:N_FEW])
                        few = [values for block in blocks for values in reference.run(block)]
                model = models[dtype].model
                with model.frozen():
                    for part in measured(model, made[dtype][kind], texts, few, until):
                        row |= part
            except Exception as error:  # the other cases go on
                row["left_out"] = f"all: {type(error).__name__}: {' '.join(str(error).split())}"
            yield row


def main(model: str, out: str) -> None:
    """Measures, prints and writes all sections; what was measured stays if it is interrupted."""
    folder, record = Path(out), Record("-m", "benchmarks.gpu_cost")
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []

    def add(measured: Iterable[Row]) -> None:
        first = len(rows)
        for row in measured:
            rows.append(row)
            pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
        table = pd.DataFrame(rows[first:])
        print(table.to_string(index=False, na_rep="–", float_format="{:.3g}".format), flush=True)

    try:
        loaded = {d: load_model(model, dtype=d, device=DEVICE) for d in (*DTYPES, "float64")}
        models = {dtype: References(of_type) for dtype, of_type in loaded.items()}
        end = time.perf_counter() + SECONDS
        add({"section": "products"} | row for row in products(models))
        for place, name in enumerate(LENGTHS):
            now = time.perf_counter()
            add(section(models, name, now + (end - now) / (len(LENGTHS) - place)))
    finally:
        about = {"name": "gpu_cost", "token_budget": TOKEN_BUDGET, "dtypes": DTYPES}
        record.write(folder, about, device=DEVICE)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))
    main(*sys.argv[1:])
