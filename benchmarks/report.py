"""What the report of a large study takes: invented rows of five settings and all metrics, no model.

    python -m benchmarks.report [N_EXAMPLES] [OUT]

Every table is there as a study with the default metrics has it: maps of 8 to 40 tokens, curves at every number of
tokens, agreement by three metrics, convergence of the first 50 texts. The report is made by the command, in a process of
its own whose peak of memory is taken. Writes OUT.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.record import Record
from saliency_bench.attribution.describe import described
from saliency_bench.cli import config
from saliency_bench.core.rows import TABLES
from saliency_bench.store.durable import sha256
from saliency_bench.store.parquet import OPTIONS, schema_of
from saliency_bench.store.run import MANIFEST, SETTINGS, write_json

CELL = "cccccccccccc"
CHUNK = 5000  # texts whose rows are in memory at once
METHODS = "method=[vanilla,input_x_gradient,smoothgrad,integrated_gradients,random]"
#: Of the metrics: the unit, and whether more is better.
METRICS = {
    "srg": ("probability", True),
    "comprehensiveness": ("probability", True),
    "sufficiency": ("probability", False),
    "aopc_comprehensiveness_full": ("probability", True),
    "aopc_sufficiency_full": ("probability", False),
    "deletion_auc": ("probability", False),
    "deletion_auc_normalized": ("1", False),
    "insertion_auc": ("probability", True),
    "insertion_auc_normalized": ("1", True),
    "log_odds": ("nats", False),
    "decision_flip_fraction": ("1", False),
    "completeness_gap": ("output", False),
    "completeness_gap_relative": ("1", False),
}
#: Metrics that only some texts or methods have; the share of texts that have one.
PARTIAL = {"decision_flip_fraction": 0.8, "deletion_auc_normalized": 0.99}
COMPLETE = "integrated_gradients"

Columns = dict[str, Any]


def lengths(n: int) -> np.ndarray:
    """How many tokens each text has, special ones included."""
    return np.asarray(8 + np.arange(n) * 7919 % 33)


def names(places: Sequence[int] | np.ndarray) -> np.ndarray:
    """The ids of texts."""
    return np.array([f"text-{place:07d}" for place in places])


def examples_of(places: np.ndarray, stream: np.random.Generator) -> Columns:
    """What the model makes of texts."""
    n, predicted, gold = len(places), stream.integers(0, 2, len(places)), places % 2
    label = np.array(["negative", "positive"])
    return {
        "example_id": names(places),
        "text": np.array([f"text {place}" for place in places]),
        "gold": gold,
        "gold_label": label[gold],
        "predicted": predicted,
        "predicted_label": label[predicted],
        "probability": stream.uniform(0.5, 1, n),
        "correct": gold == predicted,
        "n_tokens": lengths(int(places[-1]) + 1)[places],
        "truncated": np.zeros(n, bool),
    }


def rows_of(places: np.ndarray, setting: Mapping[str, Any], stream: np.random.Generator) -> Columns:
    """A value of every metric."""
    n, m = len(places), len(METRICS)
    has = np.ones((n, m), bool)
    for column, metric in enumerate(METRICS):
        if metric.startswith("completeness"):
            has[:, column] = setting["method"] == COMPLETE
        has[:, column] &= stream.random(n) < PARTIAL.get(metric, 1.0)
    flat = has.ravel()
    value = np.where(flat, stream.gamma(2.0, 0.2, n * m), 0.0)
    units, better = zip(*METRICS.values(), strict=True)
    return {
        "setting_id": np.repeat(setting["setting_id"], n * m),
        "example_id": np.repeat(names(places), m),
        "metric": np.tile(list(METRICS), n),
        "removal": pa.array(np.tile(["mask"] * (m - 2) + [""] * 2, n)),
        "value": pa.array(value, mask=~flat),
        "unit": np.tile(units, n),
        "higher_is_better": np.tile(better, n),
        "status": np.where(flat, "ok", "not_applicable"),
        "reason": pa.array(np.repeat("it has no such value", n * m), mask=flat),
    }


def maps_of(places: np.ndarray, setting: Mapping[str, Any], stream: np.random.Generator) -> Columns:
    """Scores of every token."""
    n, size = len(places), lengths(int(places[-1]) + 1)[places]
    ends = np.concatenate([[0], size.cumsum()]).astype(np.int32)
    within = np.arange(ends[-1]) - np.repeat(ends[:-1], size)
    special = (within == 0) | (within == np.repeat(size, size) - 1)

    def lists(values: Any) -> pa.Array:
        return pa.ListArray.from_arrays(ends, pa.array(values))

    ids = stream.integers(1000, 9000, len(within))
    places_in_text = np.where(special, -1, within)
    exact = setting["method"] == COMPLETE
    return {
        "setting_id": np.repeat(setting["setting_id"], n),
        "example_id": names(places),
        "target": stream.integers(0, 2, n),
        "label": np.repeat("positive", n),
        "probability": stream.uniform(0.5, 1, n),
        "tokens": lists(np.char.add("w", ids.astype(str))),
        "token_ids": lists(ids),
        "attributable": lists(~special),
        "starts": lists(places_in_text * 6),
        "ends": lists(np.where(special, -1, within * 6 + 5)),
        "segments": lists(np.where(special, -1, 0)),
        "words": lists(places_in_text),
        "scores": lists(np.where(special, 0.0, stream.normal(size=len(within)))),
        "n_gradients": np.repeat(setting.get("n_steps", 1), n),
    } | (
        {
            "completeness_gap": stream.normal(0, 1e-3, n),
            "output_difference": stream.normal(3, 1, n),
        }
        if exact
        else {}
    )


def curves_of(
    places: np.ndarray, setting: Mapping[str, Any], stream: np.random.Generator
) -> Columns:
    """A curve at every number of tokens."""
    points = lengths(int(places[-1]) + 1)[places] - 1  # of two tokens fewer, and none
    n = int(points.sum())
    starts = np.repeat(points.cumsum() - points, points)
    flips = setting["method"] != "random"
    return {
        "setting_id": np.repeat(setting["setting_id"], n),
        "example_id": np.repeat(names(places), points),
        "removal": np.repeat("mask", n),
        "k": np.arange(n) - starts,
        "n_units": np.repeat(points - 1, points),
        "deletion": stream.random(n),
        "insertion": stream.random(n),
    } | ({"flipped": stream.random(n) < 0.3} if flips else {})


def agreement_of(places: np.ndarray, a: str, b: str, stream: np.random.Generator) -> Columns:
    """How far two settings agree by three metrics."""
    n, metrics = len(places), ["kendall_tau", "top_k_jaccard", "rbo"]
    return {
        "setting_a": np.repeat(a, n * 3),
        "setting_b": np.repeat(b, n * 3),
        "example_id": np.repeat(names(places), 3),
        "metric": np.tile(metrics, n),
        "value": stream.uniform(0, 1, n * 3),
        "chance": np.tile([0.0, 0.1, 0.3], n),
        "status": np.repeat("ok", n * 3),
    }


def tables_of(n: int, settings: Sequence[Mapping[str, Any]]) -> dict[str, Iterator[Columns]]:
    """The rows of each table, in their order, some texts at a time."""
    stream = np.random.default_rng(0)
    chunks = [np.arange(at, min(at + CHUNK, n)) for at in range(0, n, CHUNK)]
    order = sorted(settings, key=lambda one: str(one["setting_id"]))
    pairs = combinations([str(one["setting_id"]) for one in settings], 2)
    probed = np.arange(min(n, 50))
    (exact,) = (one["setting_id"] for one in settings if one["method"] == COMPLETE)
    checked = {
        "setting_id": np.repeat(exact, len(probed)),
        "example_id": names(probed),
        "against": np.repeat("doubled", len(probed)),
        "tau": stream.uniform(0.9, 1, len(probed)),
        "error": stream.uniform(0, 0.02, len(probed)),
    }
    return {
        "examples": (examples_of(one, stream) for one in chunks),
        "rows": (rows_of(one, setting, stream) for setting in order for one in chunks),
        "curves": (curves_of(one, setting, stream) for setting in order for one in chunks),
        "maps": (maps_of(one, setting, stream) for setting in order for one in chunks),
        "agreement": (agreement_of(one, a, b, stream) for a, b in sorted(pairs) for one in chunks),
        "convergence": iter([checked]),
    }


def write_run(n: int, folder: Path) -> None:
    """A finished run folder with these rows."""
    cfg = config.load(["~experiment", METHODS, f"n_examples={n}", "name=simulated"])
    settings = [described(one) for one in config.settings(cfg)]
    digests = {}
    for name, chunks in tables_of(n, settings).items():
        path, schema = folder / f"{name}.parquet", schema_of(name)
        with pq.ParquetWriter(path, schema, **OPTIONS) as writer:
            for columns in chunks:
                size = len(columns["example_id"])
                filled = {key: pa.nulls(size) for key in TABLES[name]} | columns
                filled["cell_id"] = np.repeat(CELL, size)
                arrays = [
                    pa.array(filled[key]).cast(schema.field(key).type) for key in schema.names
                ]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        digests[path.name] = sha256(path.read_bytes())
    plain = json.loads(json.dumps(asdict(cfg)))
    write_json(folder / "digests.json", {"blocks": ["b"], "files": digests})
    write_json(folder / SETTINGS, settings)
    facts = {"id": "r", "cell_id": CELL, "name": "simulated", "config": plain, "split": "test"}
    facts |= {"model": {"name": "a stub"}, "data": {"dataset": "invented", "sha256": "0" * 64}}
    write_json(folder / MANIFEST, facts | {"reference_setting": settings[0]["setting_id"]})


def report(folder: Path) -> dict[str, float]:
    """Seconds and peak of memory of `saliency-bench report`."""
    started = time.perf_counter()
    words = [sys.executable, "-m", "saliency_bench", "report", str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the report failed: {status}")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gib": usage.ru_maxrss / 1024**2,
    }


if __name__ == "__main__":
    given, record = sys.argv[1:], Record()
    n_examples = int(given[0]) if given else 100_000
    with tempfile.TemporaryDirectory(prefix="report-") as place:
        write_run(n_examples, Path(place))
        sizes = {path.name: path.stat().st_size for path in sorted(Path(place).glob("*.parquet"))}
        n_rows = {name: pq.ParquetFile(Path(place) / name).metadata.num_rows for name in sizes}
        found = {"n_examples": n_examples, "rows": n_rows, "bytes": sizes} | report(Path(place))
    found |= record.provenance()
    text = json.dumps(found, indent=1)
    print(text)
    if len(given) > 1:
        Path(given[1]).write_text(f"{text}\n", "utf-8")
