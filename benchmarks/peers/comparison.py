"""Other libraries against ours: first that both compute the same, then time, in pairs.

A peer works in its own process and its time is taken there, so the pipe is not in it. Ours waits meanwhile, and the
peer while ours works. Where a peer computes another quantity its cost alone is compared, and the table says so.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from benchmarks.peers.contestants import Peers, peer_contestants
from saliency_bench.attribution.parity import REORDERING
from saliency_bench.attribution.settings import checked_setting
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, ValidationError
from saliency_bench.core.rows import Setting
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.agreement import KENDALL_TAU
from saliency_bench.evaluation.view import Reading
from saliency_bench.experiments.throughput.contestants import Contestant
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.report.formats import to_csv, to_markdown
from saliency_bench.report.table import Column, Estimate, Table
from saliency_bench.store.durable import replace_file
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.run import MANIFEST, write_json
from saliency_bench.studies.agreement import agreement_rows
from saliency_bench.studies.block import opened_blocks
from saliency_bench.studies.budget import resolve as resolve_budget
from saliency_bench.studies.evaluate import judge_block
from saliency_bench.studies.timing import interleaved_ratio, measure, synchronizer

BASELINE = "pad"  # where two of the peers start, whatever one would like
REMOVAL = "mask"
READING = Reading(REMOVAL, "token", "probability", "signed")
#: ferret's metrics as near as ours come: tenths, and the rank correlation with leave-one-out.
METRICS = {
    name: {"metric": name, "grid": "deciles"} for name in ("comprehensiveness", "sufficiency")
}
STUDY = ":study"

Scores = list[Float[np.ndarray, " _"]]  # texts differ in length


@dataclass(frozen=True)
class Row:
    """A peer's work against the same of ours: seconds per repeat, and the largest relative difference of a score."""

    contestant: Contestant
    rule: str  # by which ours integrates
    seconds: Sequence[float]
    ours: Sequence[float]
    difference: float | None  # None where the results are another quantity


def compare_peers(
    model: Model,
    encoded: Sequence[Encoded],
    *,
    n_steps: int,
    n_calibrated: int,
    n_repeats: int,
    pythons: Mapping[str, str],
    out: Path,
    command: Sequence[str],
    **options: Any,
) -> None:
    """Writes `peers.csv`, `peers.md` and the manifest to `out`; `options` are those of `peer_contestants`.

    All is compared with `n_steps` Gauss-Legendre nodes on both sides, and what a peer takes for a whole study with
    `n_calibrated` calibrated nodes of ours too: fewer gradients, at an error that `difference` then shows.

    Raises:
        ValidationError: a peer computes something else than its twin among ours; it is not timed.
        InputError: no peer can take part; the reasons are named.
    """
    started = datetime.now(UTC)
    # Where somebody keeps an environment is nobody's business, and changes no number.
    unnamed = {f"{name}={path}": f"{name}=PYTHON" for name, path in pythons.items()}
    command = [unnamed.get(word, word) for word in command]
    refs = References(model)
    asked = conf_files.runtime_defaults()["token_budget"]
    budget = resolve_budget(asked, model, [*map(len, encoded)])
    with model.frozen():
        targets = _predicted(refs, encoded, budget)
        given = {"n_steps": n_steps, "baseline": BASELINE, "pythons": pythons, **options}
        with peer_contestants(model, encoded, targets, **given) as peers:
            if not peers.contestants:
                reasons = "; ".join(peers.skipped.values())
                raise InputError(f"no peer can take part: {reasons}")
            equal = {"n_steps": n_steps, "quadrature": "gauss_legendre"}
            fewer = {"n_steps": n_calibrated, "quadrature": "calibrated"}
            rows = [
                _row(refs, peers, one, equal, n_repeats, budget) for one in peers.contestants
            ] + [
                _row_of_fewer(refs, peers, one, fewer, n_repeats, budget)
                for one in peers.contestants
                if one.name.endswith(STUDY)
            ]
    table = _table(rows, len(encoded), peers.skipped)
    replace_file(out / "peers.csv", to_csv(table).encode())
    replace_file(out / "peers.md", to_markdown(table).encode())
    computation = {
        "device": model.device.type,
        "dtype": model.precision,
        "threads": torch.get_num_threads(),
        "token_budget": budget,
    }
    about = {
        "name": "peer_comparison",
        "command": portable(shlex.join(command)),
        "model": dict(model.facts),
        "sentences": [item.example_id for item in encoded],
        "lengths": [len(item) for item in encoded],
        "n_steps": n_steps,
        "versions_of_peers": peers.versions,
        "skipped": peers.skipped,
        "seconds": {
            f"{row.contestant.name} ({row.rule})": {
                "theirs": list(row.seconds),
                "ours": list(row.ours),
            }
            for row in rows
        },
    }
    ended = datetime.now(UTC)
    provenance = collect(computation, command=command, started=started, ended=ended)
    write_json(out / MANIFEST, about | provenance)


def _row(
    refs: References,
    peers: Peers,
    one: Contestant,
    rule: Mapping[str, Any],
    n_repeats: int,
    budget: int,
) -> Row:
    peer, task = one.name.split(":")
    ours = _twin(refs, peers.encoded[peer], peer, task, rule, budget)
    difference = _difference(ours(), one.run())  # the first run of either is its warm-up
    # Both rest on sums in float32 of one model, taken in another order.
    if difference is not None and not difference <= REORDERING[torch.float32]:
        raise ValidationError(
            f"{one.name} differs from ours by {difference:.2g} of a text's largest score, "
            f"expected at most {REORDERING[torch.float32]:.2g}"
        )
    seconds = measure(
        {"ours": ours, one.name: one.run},
        n_repeats=n_repeats,
        n_warmup=0,
        synchronize=synchronizer(refs.model.device),
    )
    inside = peers.seconds[one.name][-n_repeats:]
    return Row(one, f"{rule['quadrature']}, {rule['n_steps']}", inside, seconds["ours"], difference)


def _row_of_fewer(
    refs: References,
    peers: Peers,
    study: Contestant,
    rule: Mapping[str, Any],
    n_repeats: int,
    budget: int,
) -> Row:
    """A study with another rule of ours, and how far the peer's Integrated Gradients are from ours by that rule."""
    peer, _ = study.name.split(":")
    (integrated,) = [one for one in peers.contestants if one.name == f"{peer}:integrated_gradients"]
    ours = _twin(refs, peers.encoded[peer], peer, "integrated_gradients", rule, budget)
    row = _row(refs, peers, study, rule, n_repeats, budget)
    return replace(row, difference=_difference(ours(), integrated.run()))


def _difference(ours: Scores, theirs: Scores | None) -> float | None:
    """The largest difference of a score over our text's largest; None where there is nothing to compare."""
    if theirs is None:
        return None
    pairs = zip(ours, theirs, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def _twin(
    refs: References,
    encoded: Sequence[Encoded],
    peer: str,
    task: str,
    rule: Mapping[str, Any],
    budget: int,
) -> Callable[[], Scores]:
    """What ours does in the place of a peer's task; scores in the order of the input."""
    output = "probability" if peer == "transformers_interpret" else "logit"
    gradient = _setting("vanilla", "l1", output, {})
    path = {"baseline": BASELINE, "baseline_special_tokens": "keep", **rule}
    integrated = _setting("integrated_gradients", "sum", output, path)
    if task == "study":
        alone = _setting("leave_one_out", "none", output, {"removal": REMOVAL})
        return lambda: _study(refs, encoded, [gradient, integrated, alone], budget)
    one = gradient if task == "gradient" else integrated
    normalised = peer == "transformers_interpret"
    return lambda: _explained(refs, encoded, one, budget, normalised=normalised)


def _setting(method: str, reduction: str, output: str, hyper: Mapping[str, Any]) -> Setting:
    return checked_setting(method, method, "native", reduction, "predicted", output, 0, hyper)


def _explained(
    refs: References,
    encoded: Sequence[Encoded],
    setting: Setting,
    budget: int,
    *,
    normalised: bool,
) -> Scores:
    found: dict[int, Float[np.ndarray, " T"]] = {}
    for planned, block in opened_blocks(refs, encoded, setting.target, budget):
        (maps,) = block.explain([setting]).values()
        for index, one in zip(planned.indices, maps, strict=True):
            scores = one.scores
            found[index] = scores / np.linalg.norm(scores) if normalised else scores
    return [found[index] for index in range(len(encoded))]


def _study(
    refs: References, encoded: Sequence[Encoded], settings: Sequence[Setting], budget: int
) -> Scores:
    """Two methods and leave-one-out, the two metrics of removal, and all rank correlations."""
    for _, block in opened_blocks(refs, encoded, "predicted", budget):
        maps = block.explain(settings)
        judged = [one for setting in settings[:2] for one in maps[setting.id]]
        judge_block(block, judged, METRICS, [READING])
        flat = [one for own in maps.values() for one in own]
        agreement_rows(flat, [KENDALL_TAU], "token", k=1.0, p=0.5)  # the two are for other measures
    return []


def _predicted(refs: References, encoded: Sequence[Encoded], budget: int) -> list[int]:
    found: dict[int, int] = {}
    for planned, block in opened_blocks(refs, encoded, "predicted", budget):
        found |= dict(zip(planned.indices, block.predicted.tolist(), strict=True))
    return [found[index] for index in range(len(encoded))]


def _table(rows: Sequence[Row], n: int, skipped: Mapping[str, str]) -> Table:
    left_out = "".join(f" Without {reason}." for reason in skipped.values())
    return Table(
        name="peers",
        title=f"Other libraries on {n} sentences: their time over ours",
        caption="Medians of repeats that ran side by side, theirs taken inside their process. With calibrated "
        "nodes the difference is that of Integrated Gradients. –: another quantity, or none, so that the cost alone is "
        f"compared.{left_out}",
        columns=(
            Column("peer", "Peer"),
            Column("task", "Task"),
            Column("what", "What it does"),
            Column("rule", "Our rule"),
            Column("ratio", "Theirs / ours"),
            Column("seconds", "Theirs, median", unit="s"),
            Column("seconds_ours", "Ours, median", unit="s"),
            Column("difference", "Largest difference of a score"),
        ),
        rows=tuple(
            (
                *row.contestant.name.split(":"),
                row.contestant.describe,
                None if row.contestant.name.endswith("gradient") else row.rule,
                Estimate(*interleaved_ratio(row.seconds, row.ours)),
                float(np.median(row.seconds)),
                float(np.median(row.ours)),
                row.difference,
            )
            for row in rows
        ),
        marks_best=False,
    )
