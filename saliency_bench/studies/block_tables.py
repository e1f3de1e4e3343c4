"""The rows of a study: those of each block, and the plan of all rows that a finished study has."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from saliency_bench.attribution import baselines, captum
from saliency_bench.attribution.parity import relative_tolerance
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import PARTS
from saliency_bench.core.text import Encoded
from saliency_bench.models.ledger import CONVERGENCE, CURVES, MAPS
from saliency_bench.models.references import References
from saliency_bench.store.coverage import Plan
from saliency_bench.studies.agreement_rows import agreement_rows
from saliency_bench.studies.block import (
    OpenBlock,
    Piece,
    open_block,
    opened_blocks,
    packing_of_study,
    plan_blocks,
    plan_pieces,
)
from saliency_bench.studies.convergence import convergence_rows, others
from saliency_bench.studies.evaluate import evaluate_block, planned
from saliency_bench.studies.prepare import Study, usual_views
from saliency_bench.studies.timing_rows import timing_rows

TIMING = "timing"  # the name of the part that holds the timings

Row = dict[str, Any]


def pieces_of(study: Study) -> list[Piece]:
    """The pieces of a study, a pure function of its texts."""
    packing = packing_of_study(study.model, study.config.runtime.token_budget, study.encoded)
    return plan_pieces(plan_blocks(study.encoded, packing))


def plan_of(study: Study) -> Plan:
    """The rows that the study's tables must have."""
    config, settings = study.config, [setting.id for setting in study.settings]
    metrics, curves = planned(config.metric, usual_views(config))
    return Plan(
        cell_id=study.cell_id,
        texts={
            piece.name: [study.encoded[index].example_id for index in piece.indices]
            for piece in pieces_of(study)
        },
        settings=settings,
        evaluated=settings if metrics else (),
        metrics=metrics,
        curves=curves,
        agreement=config.agreement.metrics,
        convergence=[(pair.setting.id, pair.against) for pair in study.companions],
        probed=frozenset(
            item.example_id for item in study.encoded[: config.convergence.n_examples]
        ),
        timings=TIMING if config.timing.enabled else None,
        repeats=config.timing.n_repeats,
    )


def block_tables(
    study: Study,
    refs: References,
    items: Sequence[Encoded],
    probe: Collection[str],
    evaluated_as: Callable[[AttributionMap], AttributionMap] = lambda computed: computed,
) -> dict[str, list[dict[str, Any]]]:
    """All rows of one block; the maps of examples whose ids are in `probe` are compared with less or more exact ones.

    `evaluated_as` gives the map that metrics are of in place of the computed one.
    """
    under = study.model.ledger.under
    checked = [item for item in items if item.example_id in probe]
    with under(MAPS):
        budget = study.config.runtime.token_budget
        block = open_block(refs, items, study.config.target, budget, study.settings)
        free = others(study.companions, free=True) if checked else []
        maps = block.explain([*study.settings, *free])
        uncertain = list(_uncertain_baselines(study, block))
    flat = [attribution for setting in study.settings for attribution in maps[setting.id]]
    with under(CURVES):
        evaluated = evaluate_block(
            block, [*map(evaluated_as, flat)], study.config.metric, usual_views(study.config)
        )
        config = study.config.agreement
        agreement = agreement_rows(flat, config.metrics, config.granularity, config.k, config.p)
    with under(CONVERGENCE):
        converged = _convergence(study, refs, checked, maps)
    tables = {
        "examples": example_rows(block),
        "maps": [map_row(attribution) for attribution in flat if attribution.finite],
        "rows": evaluated.rows,
        "curves": evaluated.curves,
        "agreement": agreement,
        "convergence": converged,
    }
    cell = {"cell_id": study.cell_id}
    of_cell = {name: [cell | row for row in rows] for name, rows in tables.items()}
    warned = [warning for item in items for warning in study.warnings_of(item.example_id)]
    return of_cell | {"warnings": warned + [cell | warning for warning in uncertain]}


def _uncertain_baselines(study: Study, block: OpenBlock) -> Iterable[dict[str, Any]]:
    """A warning for each text whose maximum-entropy baseline leaves the model sure of something."""
    searching = {
        (setting.output, setting.hyper.get("baseline_special_tokens", "keep")): setting
        for setting in study.settings
        if setting.hyper.get("baseline") == "max_entropy"
    }
    for (output, special_tokens), setting in searching.items():
        context = block.context(output, setting.seed)
        shares = baselines.diagnostics(context, "max_entropy", special_tokens)
        for example_id, share in zip(block.batch.example_ids, shares, strict=True):
            if share < baselines.LITTLE:
                message = (
                    f"max_entropy reaches less than {baselines.LITTLE:g} of the largest entropy"
                )
                source = f"method.{setting.name}.baseline"
                yield {"example_id": example_id, "source": source, "message": message}


def _convergence(
    study: Study,
    refs: References,
    checked: Sequence[Encoded],
    maps: Mapping[str, Sequence[AttributionMap]],
) -> list[dict[str, Any]]:
    if not checked:
        return []
    costly = others(study.companions, free=False)
    if costly:
        block = open_block(refs, checked, study.config.target, study.config.runtime.token_budget)
        maps = {**maps, **block.explain(costly)}
    return convergence_rows(study.companions, maps, {item.example_id for item in checked})


def timings(study: Study, refs: References) -> list[dict[str, Any]]:
    """The time that each setting takes on the first examples of the study."""
    timing = study.config.timing
    rows = timing_rows(
        refs,
        study.encoded[: timing.n_examples],
        study.settings,
        n_repeats=timing.n_repeats,
        n_warmup=timing.n_warmup,
        token_budget=study.config.runtime.token_budget,
    )
    return [{"cell_id": study.cell_id} | row for row in rows]


def captum_tolerances(study: Study, refs: References) -> dict[str, Any] | None:
    """For each native setting with a Captum twin, the largest difference that rounding explains on any example."""
    twins = {
        setting.twin("native").id
        for setting in study.settings
        if setting.backend in captum.BACKENDS
    }
    paired = [setting for setting in study.settings if setting.id in twins]
    if not paired:
        return None
    tolerances: dict[str, float] = {}
    budget = study.config.runtime.token_budget
    for _, opened in opened_blocks(refs, study.encoded, study.config.target, budget):
        for setting in paired:
            context = opened.context(setting.output, setting.seed)
            largest = float(relative_tolerance(context, setting).max())
            tolerances[setting.id] = max(largest, tolerances.get(setting.id, 0.0))
    return {"relative_tolerance": tolerances, "derived_in": "saliency_bench.attribution.parity"}


def example_rows(block: OpenBlock) -> list[dict[str, Any]]:
    """The rows of the table of examples: each text with the class that the model predicts."""
    probability = map(_number, block.probability(block.predicted).tolist())
    rows = []
    for row, (item, sure, largest) in enumerate(
        zip(block.batch.encoded, probability, block.predicted.tolist(), strict=True)
    ):
        predicted = (
            None if sure is None else largest
        )  # of outputs that are not finite no class is the largest
        unknown = item.gold is None or predicted is None
        rows.append(
            {
                "example_id": item.example_id,
                "text": item.text,
                "text_pair": item.text_pair,
                "gold": item.gold,
                "gold_label": None if item.gold is None else block.label(row, item.gold),
                "predicted": predicted,
                "predicted_label": None if predicted is None else block.label(row, predicted),
                "probability": sure,
                "correct": None if unknown else item.gold == predicted,
                "n_tokens": len(item),
                "truncated": item.truncated,
                **_parts(item),
            }
        )
    return rows


def _parts(item: Encoded) -> dict[str, list[Any] | None]:
    """The segments that a text came with, in columns."""
    columns: list[Any] = [[*column] for column in zip(*item.parts, strict=True)]
    columns = columns or [None] * len(PARTS)
    return dict(zip(PARTS, columns, strict=True))


def _number(value: float) -> float | None:
    """The value, or None where it is not finite; the rows of the text's metrics are then marked as failed."""
    return value if math.isfinite(value) else None


def map_row(attribution: AttributionMap) -> dict[str, Any]:
    """A map as a row of the table."""
    encoded = attribution.encoded
    return {
        "setting_id": attribution.setting["setting_id"],
        "example_id": attribution.example_id,
        "target": attribution.target,
        "against": attribution.against,
        "label": attribution.label,
        "probability": _number(attribution.probability),
        "tokens": list(encoded.tokens),
        "token_ids": list(encoded.input_ids),
        "attributable": list(attribution.attributable),
        "starts": [start for start, _ in encoded.offsets],
        "ends": [end for _, end in encoded.offsets],
        "segments": list(encoded.segments),
        "words": list(encoded.words),
        "scores": attribution.scores.tolist(),
        "completeness_gap": attribution.completeness_gap,
        "output_difference": attribution.output_difference,
        "n_gradients": attribution.n_gradients,
        "standard_errors": None
        if attribution.standard_errors is None
        else attribution.standard_errors.tolist(),
        "split_half_tau": attribution.split_half_tau,
        "error": attribution.error,
        "converged": attribution.converged,
    }
