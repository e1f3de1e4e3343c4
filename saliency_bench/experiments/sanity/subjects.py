"""A model with its texts and their maps, which all sections need, and the agreement of two maps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from saliency_bench.attribution.settings import single_settings
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
    """A model and its texts; `fixed` have the class that the model predicts as their label, so that it can be the target."""

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
    """The texts labelled with the class that the model predicts, which stays when model or input changes."""
    refs, labelled = References(model), list(encoded)
    with model.frozen():
        for block, opened in opened_blocks(refs, encoded, "predicted", budget):
            for index, label in zip(block.indices, opened.predicted.tolist(), strict=True):
                labelled[index] = replace(encoded[index], gold=label)
    return tuple(labelled)


def settings_of(
    model: Model, names: Sequence[str], seed: int, **changed: Any
) -> dict[str, Setting]:
    """The entries of conf/method/ as settings, by name; what the model lacks is replaced (`fit_settings`)."""
    entries = {name: conf_files.method_defaults(name) for name in names}
    for entry in entries.values():
        entry |= {key: value for key, value in changed.items() if key in entry}
    settings = single_settings(entries, target="gold", seed=seed)
    fitted, _ = fit_settings(model, list(settings.values()))
    return {setting.name: setting for setting in fitted}


def explained(
    model: Model, encoded: Sequence[Encoded], settings: Mapping[str, Setting], budget: int
) -> dict[str, list[AttributionMap]]:
    """Maps of the texts' own label by the name of a setting, in the order of the texts."""
    with model.frozen():
        maps = explain_texts(References(model), encoded, list(settings.values()), "gold", budget)
    return dict(zip(settings, maps, strict=True))


def valued(value: float) -> Row:
    """The value of a row, or the reason why there is none."""
    if np.isfinite(value):
        return {"value": value, "reason": None}
    return {"value": None, "reason": "every score of the map is 0"}


def compared(a: Maps, b: Maps) -> Iterator[Row]:
    """The agreement of two sets of maps, text by text: of magnitudes, and of scores where they have signs.

    Magnitudes are what methods with and without signs can be compared by. The agreement of scores of a method without
    signs is that of its magnitudes, and not applicable: beside signed ones it would be another quantity.
    """
    for name, of_method in a.items():
        for first, second in zip(of_method, b[name], strict=True):
            row = {"method": name, "example_id": first.example_id}
            try:
                values = similarity(first.scores, second.scores, np.array(first.attributable))
            except NotApplicable as reason:
                measured: list[Row] = [{"value": None, "reason": str(reason)}] * 2
            else:
                measured = [{"value": value, "reason": None} for value in values]
            if not any(signed(map_.setting, map_.scores) for map_ in (first, second)):
                measured[0] = {"value": None, "reason": NO_SIGNS}
            yield row | {"measure": TAU_ABSOLUTE} | measured[1]
            yield row | {"measure": TAU} | measured[0]
