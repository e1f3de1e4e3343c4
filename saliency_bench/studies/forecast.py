"""A forecast of a study's cost before it starts: gradients, forward rows, seconds and memory.

The study's own code runs on a few blocks of its texts, of different lengths; between these lengths the work is
interpolated. Gradients of settings with a fixed number of points are exact, since every text takes as many.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from saliency_bench.attribution import captum
from saliency_bench.attribution.explain import Family
from saliency_bench.core.errors import counted
from saliency_bench.core.text import Encoded
from saliency_bench.models.ledger import CONVERGENCE, CURVES, MAPS, PARITY, TIMING, Work
from saliency_bench.models.references import References
from saliency_bench.studies.block import open_block, packing_of_study, plan_blocks
from saliency_bench.studies.block_tables import TIMING as TIMING_PART
from saliency_bench.studies.block_tables import block_tables, captum_tolerances, pieces_of
from saliency_bench.studies.memory import peak_memory
from saliency_bench.studies.prepare import Study, choosing, load_examples, questions_of
from saliency_bench.studies.timing_rows import explainer

#: Blocks that are run, and texts of each of them, at the most.
N_BLOCKS, MOST_TEXTS = 4, 4

Paid = Mapping[str, Work]


@dataclass(frozen=True)
class Share:
    """A stage of the study, its texts, and the number of times that it goes over them; `name` is shown in place of `stage`."""

    stage: str
    texts: Sequence[Encoded]
    times: int = 1
    name: str | None = None


class SharedPoints(NamedTuple):
    """Settings that share points: what an example costs together, and what the most expensive one costs alone."""

    name: str
    n_settings: int
    union: int
    largest: int


@dataclass(frozen=True)
class Forecast:
    """The cost of a study, by stage; `sampled` is the number of texts that it was measured on."""

    stages: Mapping[str, Work]
    shared: Sequence[SharedPoints]
    peak_bytes: int | None
    sampled: int

    @property
    def total(self) -> Work:
        """The work of all stages."""
        total = Work()
        for work in self.stages.values():
            total = total.plus(work)
        return total

    def to_dict(self) -> dict[str, Any]:
        """The forecast as plain data, for the manifest."""
        return {
            "total": self.total._asdict(),
            "stages": {stage: work._asdict() for stage, work in self.stages.items()},
            "peak_bytes": self.peak_bytes,
            "sampled": self.sampled,
        }


def foresee(
    study: Study,
    finished: Collection[str] = (),
    *,
    choose: bool = True,
    n_blocks: int = N_BLOCKS,
) -> Forecast:
    """Measures a few blocks and forecasts what is left of a study.

    Args:
        study: what is to be run.
        finished: names of the parts that are there already.
        choose: with the study that chooses settings before it.
        n_blocks: how many blocks are run, each twice: the first time pays for what is done once for a length.
    """
    model, references = study.model, References(study.model)
    needed = shares(study, finished, choose)
    run = partial(_run, study, references, {share.stage for share in needed})
    texts = needed[0].texts
    plan = plan_blocks(texts, packing_of_study(model, study.config.runtime.token_budget, texts))
    by_length = {len(texts[block.indices[0]]): block.indices[:MOST_TEXTS] for block in plan}
    blocks = [[texts[index] for index in indices] for indices in by_length.values()]
    sampled = _sample(blocks, n_blocks)
    with model.frozen():
        run(sampled[0][:1])  # pays for work that is done once, and for what a first pass loads
        with peak_memory(model.device) as peak:
            first = [run(items) for items in sampled]
        steady = [run(items) for items in sampled]
        families = _families(study, references)
    return Forecast(
        _stages(needed, sampled, first, steady),
        [SharedPoints(each.name, len(each.members), each.union, each.largest) for each in families],
        None if peak.peak_bytes is None else model.parameter_bytes + peak.peak_bytes,
        sum(map(len, sampled)),
    )


def shares(study: Study, finished: Collection[str], choose: bool) -> list[Share]:
    """The texts of each stage that are left, and how many times the stage goes over them."""
    config, encoded = study.config, study.encoded
    pieces = [piece for piece in pieces_of(study) if piece.name not in finished]
    left = [encoded[index] for piece in pieces for index in piece.indices]
    checked = {item.example_id for item in encoded[: config.convergence.n_examples]}
    timed = config.timing.enabled and TIMING_PART not in finished
    compared = any(setting.backend in captum.BACKENDS for setting in study.settings)
    passes = config.timing.n_warmup + config.timing.n_repeats + 1  # one for the memory
    stages = [
        Share(MAPS, left),
        Share(CURVES, left),
        Share(CONVERGENCE, [item for item in left if item.example_id in checked]),
        Share(TIMING, encoded[: config.timing.n_examples] if timed else [], passes),
        Share(PARITY, encoded if compared and (pieces or timed) else []),
    ]
    if config.choose is not None and choose:
        examples = load_examples(choosing(config))
        other = [text for _, text in questions_of(study.model, examples, config.too_long)]
        name = f"choosing on {config.choose.split}"
        stages += [Share(stage, other, name=name) for stage in (MAPS, CURVES, PARITY)]
    return [share for share in stages if share.texts]


def _run(
    study: Study, references: References, stages: Collection[str], items: Sequence[Encoded]
) -> dict[str, Work]:
    """Runs the study on some texts, each setting timed once; returns the work by stage."""
    ledger = study.model.ledger
    before = ledger.copy()
    probe = {item.example_id for item in items} if CONVERGENCE in stages else ()
    block_tables(study, references, items, probe)
    with ledger.under(PARITY):
        captum_tolerances(replace(study, encoded=tuple(items)), references)
    if TIMING in stages:
        with ledger.under(TIMING):
            for setting in study.settings:
                explainer(references, items, setting, study.config.runtime.token_budget)()
    return ledger.since(before).work


def _families(study: Study, references: References) -> list[Family]:
    """The settings that share points, for the longest text."""
    item = max(study.encoded, key=len)
    budget = study.config.runtime.token_budget
    return open_block(references, [item], study.config.target, budget).families(study.settings)


def _stages(
    needed: Sequence[Share],
    sampled: Sequence[Sequence[Encoded]],
    first: Sequence[Paid],
    steady: Sequence[Paid],
) -> dict[str, Work]:
    """The work of all texts, by stage, from that of the sampled blocks."""
    once = _per_length(first, steady)
    stages: dict[str, Work] = {}
    for share in needed:
        work = _interpolated(share, sampled, steady)
        if share.name is None and share.times == 1:
            n_lengths = len({len(text) for text in share.texts})
            work = work.plus(once.get(share.stage, Work()), n_lengths)
        name = share.name or share.stage
        stages[name] = stages.get(name, Work()).plus(work)
    return stages


def _per_length(first: Sequence[Paid], steady: Sequence[Paid]) -> dict[str, Work]:
    """The work that is done once for a length, by stage: on average, the surplus of the first run of a block."""
    stages = {stage for paid in first for stage in paid}
    surplus = {}
    for stage in stages:
        more = [
            np.array(a.get(stage, Work())) - np.array(b.get(stage, Work()))
            for a, b in zip(first, steady, strict=True)
        ]
        surplus[stage] = Work(*np.clip(np.mean(more, axis=0), 0.0, None).tolist())
    return surplus


def _interpolated(share: Share, sampled: Sequence[Sequence[Encoded]], paid: Sequence[Paid]) -> Work:
    """A stage's work for all texts of a share, from that for each text of the sampled blocks."""
    measured = [float(np.mean([len(text) for text in items])) for items in sampled]
    table = [
        np.array(work.get(share.stage, Work())) / len(items)
        for work, items in zip(paid, sampled, strict=True)
    ]
    lengths = [len(text) for text in share.texts]
    columns = np.stack(table).T
    sums = [np.interp(lengths, measured, column).sum() for column in columns]
    return Work(*(share.times * float(total) for total in sums))


def _sample(blocks: Sequence[Sequence[Encoded]], n: int) -> list[Sequence[Encoded]]:
    """The middle block where `n` is 1, else `n` of them evenly from the shortest to the longest."""
    if n == 1:
        return [blocks[len(blocks) // 2]]
    places = np.linspace(0, len(blocks) - 1, min(n, len(blocks))).round().astype(int)
    return [blocks[place] for place in places]


def sentence(forecast: "Forecast") -> str:
    """The forecast in a sentence: About 12 minutes: 84,000 gradients of 31 tokens, about 1.2 GB of memory."""
    total = forecast.total
    parts = [
        _rows(total.gradients, total.gradient_tokens, "gradient"),
        _rows(total.forward_rows, total.forward_tokens, "forward row"),
    ]
    if forecast.peak_bytes is not None:
        parts.append(f"about {size(forecast.peak_bytes)} of memory")
    return f"About {duration(total.seconds)}: {', '.join(part for part in parts if part)}."


def _rows(n: float, tokens: float, name: str) -> str:
    return f"{counted(rounded(n), name)} of {counted(round(tokens / n), 'token')}" if n else ""


def rounded(n: float | int) -> str:
    """A number with commas, whole up to a hundred thousand and to three digits from there: 84,312; 2,130,000."""
    return f"{n if n < 1e5 else float(f'{n:.3g}'):,.0f}"


def size(n_bytes: float | int) -> str:
    """A number of bytes to two digits: 1.2 GB."""
    for prefix in ("", "k", "M", "G"):
        if n_bytes < 999.5:
            return f"{float(f'{n_bytes:.2g}'):g} {prefix}B"
        n_bytes /= 1000
    return f"{float(f'{n_bytes:.2g}'):g} TB"


def duration(seconds: float | int, *, short: bool = False) -> str:
    """A time in seconds up to 90, in minutes up to 90, in hours from there."""
    names = ("s", "min", "h") if short else ("seconds", "minutes", "hours")
    if seconds < 90:
        return f"{float(f'{seconds:.2g}'):g} {names[0]}"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} {names[1]}"
    return f"{seconds / 3600:.1f} {names[2]}"
