"""Other libraries against ours: first that both compute the same, then time, in pairs.

A peer works in its own process and its time is taken there, so the pipe is not in it. Ours waits meanwhile, and the
peer while ours works. Times are those of the processor, so that other processes do not count. Where a peer computes another
quantity its cost alone is compared, and the table says so; a peer that cannot take part has a row with the reason.
"""

import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from benchmarks.peers.contestants import (
    CLASSIFIER,
    EXPLAINS,
    PeerError,
    Peers,
    Subject,
    peer_contestants,
)
from saliency_bench.attribution.parity import REORDERING
from saliency_bench.attribution.settings import single_settings
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, ValidationError
from saliency_bench.core.rows import Setting
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.agreement import KENDALL_TAU
from saliency_bench.evaluation.view import View
from saliency_bench.experiments.throughput.contestants import Contestant
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.report.formats import to_csv, to_markdown
from saliency_bench.report.table import Cell, Column, Estimate, Table
from saliency_bench.store.durable import replace_file
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.run import MANIFEST, write_json
from saliency_bench.studies.agreement_rows import agreement_rows
from saliency_bench.studies.block import explain_texts, opened_blocks
from saliency_bench.studies.budget import resolve as resolve_budget
from saliency_bench.studies.evaluate import evaluate_block
from saliency_bench.studies.timing import interleaved_ratio, measure, synchronizer

BASELINE = "pad"  # where two of the peers start, whatever one would like
REMOVAL = "mask"
VIEW = View(REMOVAL, "token", "probability", "signed")
#: ferret's metrics as near as ours come: tenths, and the rank correlation with leave-one-out.
METRICS = {
    name: {"metric": name, "grid": "deciles"} for name in ("comprehensiveness", "sufficiency")
}
STUDY = ":study"
N_EVALUATIONS = 200  # of a text, as `worker.Shap` has it

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
    subjects: Mapping[str, Subject],
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
    # The place of an environment is private, and changes no number.
    unnamed = {f"{name}={path}": f"{name}=PYTHON" for name, path in pythons.items()}
    command = [unnamed.get(word, word) for word in command]
    equal = {"n_steps": n_steps, "quadrature": "gauss_legendre"}
    fewer = {"n_steps": n_calibrated, "quadrature": "calibrated"}
    with ExitStack() as frozen:
        for subject in subjects.values():
            frozen.enter_context(subject.model.frozen())
        given = {"n_steps": n_steps, "baseline": BASELINE, "pythons": pythons, **options}
        with peer_contestants(subjects, **given) as peers:
            if not peers.contestants:
                raise InputError(f"no peer can take part: {'; '.join(peers.skipped.values())}")
            ours = {kind: Ours.of(subject) for kind, subject in subjects.items()}
            rows = _rows(ours, peers, equal, fewer, n_repeats)
    encoded = subjects[CLASSIFIER].encoded
    table = _table(rows, len(encoded), peers.skipped)
    replace_file(out / "peers.csv", to_csv(table).encode())
    replace_file(out / "peers.md", to_markdown(table).encode())
    computation = {
        "device": "cpu",
        "dtype": subjects[CLASSIFIER].model.precision,
        "threads": torch.get_num_threads(),
        "token_budget": ours[CLASSIFIER].budget,
    }
    about = {
        "name": "peer_comparison",
        "command": portable(shlex.join(command)),
        "model": dict(subjects[CLASSIFIER].model.facts),
        "sentences": [item.example_id for item in encoded],
        "lengths": [len(item) for item in encoded],
        "n_steps": n_steps,
        "versions_of_peers": peers.versions,
        "skipped": peers.skipped,
        "load_at_the_end": os.getloadavg()[0],
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


@dataclass(frozen=True)
class Ours:
    """Our model, ready to work."""

    refs: References
    budget: int

    @classmethod
    def of(cls, subject: Subject) -> "Ours":
        """With the usual token budget."""
        budget = conf_files.runtime_defaults()["token_budget"]
        lengths = [*map(len, subject.encoded)]
        return cls(References(subject.model), resolve_budget(budget, subject.model, lengths))


def _rows(
    ours: Mapping[str, Ours],
    peers: Peers,
    equal: Mapping[str, Any],
    fewer: Mapping[str, Any],
    n_repeats: int,
) -> list[Row]:
    """All that can be timed; what fails is noted among the skipped."""
    rows = []
    for make, rule in ((_row, equal), (_row_of_fewer, fewer)):
        for peer in peers.contestants:
            if rule is equal or peer.name.endswith(STUDY):
                try:
                    rows.append(make(ours, peers, peer, rule, n_repeats))
                except (PeerError, InputError) as error:
                    peers.skipped[peer.name] = str(error)
    return rows


def _row(
    ours: Mapping[str, Ours],
    peers: Peers,
    contestant: Contestant,
    rule: Mapping[str, Any],
    n_repeats: int,
) -> Row:
    twin = _twin(ours, peers, contestant.name, rule)
    difference = _difference(twin(), contestant.run())  # the first run of either is its warm-up
    # Both rest on sums in float32 of one model, taken in another order.
    if difference is not None and not difference <= REORDERING[torch.float32]:
        raise ValidationError(
            f"{contestant.name} differs from ours by {difference:.2g} of a text's largest score, "
            f"expected at most {REORDERING[torch.float32]:.2g}"
        )
    seconds = measure(
        {"ours": twin, contestant.name: contestant.run},
        n_repeats=n_repeats,
        n_warmup=0,
        synchronize=synchronizer("cpu"),
        clock=time.process_time,
    )
    inside = peers.seconds[contestant.name][-n_repeats:]
    named = f"{rule['quadrature']}, {rule['n_steps']}"
    return Row(contestant, named, inside, seconds["ours"], difference)


def _row_of_fewer(
    ours: Mapping[str, Ours],
    peers: Peers,
    study: Contestant,
    rule: Mapping[str, Any],
    n_repeats: int,
) -> Row:
    """A study with another rule of ours, and how far the peer's Integrated Gradients are from ours by that rule."""
    name = study.name.replace(STUDY, ":integrated_gradients")
    (integrated,) = [peer for peer in peers.contestants if peer.name == name]
    row = _row(ours, peers, study, rule, n_repeats)
    return replace(row, difference=_difference(_twin(ours, peers, name, rule)(), integrated.run()))


def _difference(ours: Scores | None, theirs: Scores | None) -> float | None:
    """The largest difference of a score over our text's largest; None where there is nothing to compare."""
    if ours is None or theirs is None:
        return None
    pairs = zip(ours, theirs, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def _twin(
    ours: Mapping[str, Ours], peers: Peers, name: str, rule: Mapping[str, Any]
) -> Callable[[], Scores | None]:
    """What ours does in the place of a peer's task; scores in the order of the input, None where they are another quantity."""
    peer, task = name.split(":")
    encoded, mine = peers.encoded[peer], ours[EXPLAINS.get(peer, CLASSIFIER)]
    output = "probability" if peer in ("transformers_interpret", "shap") else "logit"
    path = {"baseline": BASELINE, "baseline_special_tokens": "keep", **rule}
    if peer == "inseq":
        path |= {"baseline": "unk", "baseline_special_tokens": "replace"}
    integrated = _setting("integrated_gradients", output, reduction="sum", **path)
    gradient = _setting("vanilla", output, reduction="l1")
    if task == "study":
        alone = _setting("leave_one_out", output, removal=REMOVAL)
        return lambda: _study(mine, encoded, [gradient, integrated, alone])
    setting = {
        "integrated_gradients": integrated,
        "gradient": gradient,
        "attnlrp": _setting("input_x_gradient", output, reduction="sum", backward="attnlrp"),
        "partition": _setting(
            "partition_shap", output, removal=REMOVAL, max_evaluations=N_EVALUATIONS
        ),
    }[task]
    normalised = peer == "transformers_interpret"
    return lambda: _explained(mine, encoded, setting, normalised=normalised)


def _setting(method: str, output: str, **entry: Any) -> Setting:
    return single_settings({method: {"method": method, **entry}}, output=output)[method]


def _explained(
    ours: Ours, encoded: Sequence[Encoded], setting: Setting, *, normalised: bool
) -> Scores:
    (maps,) = explain_texts(ours.refs, encoded, [setting], setting.target, ours.budget)
    scores = [map_.scores for map_ in maps]
    return [of_text / np.linalg.norm(of_text) for of_text in scores] if normalised else scores


def _study(ours: Ours, encoded: Sequence[Encoded], settings: Sequence[Setting]) -> None:
    """Two methods and leave-one-out, the two metrics of removal, and all rank correlations."""
    for _, block in opened_blocks(ours.refs, encoded, "predicted", ours.budget):
        maps = block.explain(settings)
        chosen_maps = [one for setting in settings[:2] for one in maps[setting.id]]
        evaluate_block(block, chosen_maps, METRICS, [VIEW])
        flat = [one for own in maps.values() for one in own]
        agreement_rows(flat, [KENDALL_TAU], "token", k=1.0, p=0.5)  # the two are for other measures


def predicted(model: Model, encoded: Sequence[Encoded]) -> list[int]:
    """The class that the model predicts of each text."""
    found: dict[int, int] = {}
    ours = Ours.of(Subject(model, encoded, []))
    with model.frozen():
        for planned, block in opened_blocks(ours.refs, encoded, "predicted", ours.budget):
            found |= dict(zip(planned.indices, block.predicted.tolist(), strict=True))
    return [found[index] for index in range(len(encoded))]


def _table(rows: Sequence[Row], n: int, skipped: Mapping[str, str]) -> Table:
    return Table(
        name="peers",
        title=f"Other libraries on {n} sentences: their time over ours",
        caption="Processor time: medians of repeats that ran side by side, theirs taken inside their process. With calibrated "
        "nodes the difference is that of Integrated Gradients. –: another quantity, or none, so that the cost alone is "
        "compared.",
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
                row.rule
                if row.contestant.name.endswith((":integrated_gradients", STUDY))
                else None,
                Estimate(*interleaved_ratio(row.seconds, row.ours)),
                float(np.median(row.seconds)),
                float(np.median(row.ours)),
                row.difference,
            )
            for row in rows
        )
        + tuple(_not_timed(name, reason) for name, reason in skipped.items()),
        marks_best=False,
    )


def _not_timed(name: str, reason: str) -> tuple[Cell, ...]:
    """The row of a peer, or of one of its tasks."""
    peer, _, task = name.partition(":")
    why = reason.removeprefix(f"{peer}: ").splitlines()[0]
    return (peer, task or None, f"not timed: {why}", *(None,) * 5)
