"""What the sections share: a model with its texts, their maps, and the agreement of two maps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from saliency_bench.attribution.settings import expand
from saliency_bench.core import conf as conf_files
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.method_facts import signed
from saliency_bench.core.rows import Setting
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.metrics import NotApplicable
from saliency_bench.evaluation.robustness import similarity
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.studies.block import explain_texts, opened_blocks
from saliency_bench.studies.prepare import fit_settings

Row = dict[str, Any]
Maps = Mapping[str, Sequence[AttributionMap]]

TAU, TAU_ABSOLUTE = "tau", "tau_absolute"
NO_SIGNS = "scores have no sign, so that only their magnitudes are compared"


@dataclass(frozen=True)
class Subject:
    """A model and its texts; `fixed` have the class that the model predicts as their label, so that it can be asked for."""

    model: Model
    encoded: tuple[Encoded, ...]
    fixed: tuple[Encoded, ...]
    config: Mapping[str, Any]
    budget: int

    @cached_property
    def maps(self) -> Maps:
        """The maps by the model as it is, which every section compares others with."""
        settings = settings_of(self.model, self.config["methods"], self.config["seed"])
        return explained(self.model, self.fixed, settings, self.budget)


def fix_class(model: Model, encoded: Sequence[Encoded], budget: int) -> tuple[Encoded, ...]:
    """The texts labelled with what the model says of them: a class that stays when model or input changes."""
    refs, found = References(model), list(encoded)
    with model.frozen():
        for block, opened in opened_blocks(refs, encoded, "predicted", budget):
            for index, label in zip(block.indices, opened.predicted.tolist(), strict=True):
                found[index] = replace(encoded[index], gold=label)
    return tuple(found)


def settings_of(
    model: Model, names: Sequence[str], seed: int, **changed: Any
) -> dict[str, Setting]:
    """The entries of conf/method/ as settings, by name; what the model lacks is replaced as everywhere."""
    entries = {name: conf_files.method_defaults(name) for name in names}
    for entry in entries.values():
        entry |= {key: value for key, value in changed.items() if key in entry}
    fitted, _ = fit_settings(model, expand(entries, target="gold", seed=seed))
    return {one.name: one for one in fitted}


def explained(
    model: Model, encoded: Sequence[Encoded], settings: Mapping[str, Setting], budget: int
) -> dict[str, list[AttributionMap]]:
    """Maps of the texts' own label by the name of a setting, in the order of the texts."""
    with model.frozen():
        maps = explain_texts(References(model), encoded, list(settings.values()), "gold", budget)
    return dict(zip(settings, maps, strict=True))


def valued(value: float) -> Row:
    """The value of a row, or the reason why a map has none."""
    if np.isfinite(value):
        return {"value": value, "reason": None}
    return {"value": None, "reason": "every score of the map is 0"}


def compared(a: Maps, b: Maps) -> Iterator[Row]:
    """How alike the maps of two occasions are, text by text: of the magnitudes, and of the scores where they have signs.

    Magnitudes are what methods with and without signs can be compared by. The agreement of scores of a method without
    signs is that of its magnitudes, and not applicable: beside signed ones it would be another quantity.
    """
    for name, own in a.items():
        for first, second in zip(own, b[name], strict=True):
            row = {"method": name, "example_id": first.example_id}
            try:
                values = similarity(first.scores, second.scores, np.array(first.attributable))
            except NotApplicable as reason:
                found: list[Row] = [{"value": None, "reason": str(reason)}] * 2
            else:
                found = [{"value": value, "reason": None} for value in values]
            if not any(signed(made.setting, made.scores) for made in (first, second)):
                found[0] = {"value": None, "reason": NO_SIGNS}
            yield row | {"measure": TAU_ABSOLUTE} | found[1]
            yield row | {"measure": TAU} | found[0]
