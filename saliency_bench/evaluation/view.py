"""Views: the removal operator, the units, the output and the ranking with which a metric is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

SIGNED = "signed"
ABSOLUTE = "absolute"
RANKINGS = (SIGNED, ABSOLUTE)


@dataclass(frozen=True)
class View:
    """The choices with which a metric is computed on a text.

    Attributes:
        removal: the removal operator (`removal.operators`).
        granularity: the kind of units (`units`).
        output: the output for the explained class (`curves.OUTPUTS`).
        ranking: "signed" ranks by the scores, "absolute" by their magnitudes.
    """

    removal: str
    granularity: str
    output: str
    ranking: str


def usual(removals: Sequence[str], granularity: str, output: str, ranking: str) -> list[View]:
    """A view for each removal operator; the first is the main one."""
    return [View(removal, granularity, output, ranking) for removal in removals]


#: The keys of a metric entry that set fields of its view, unless the function has a hyperparameter of that name.
KEYS = tuple(field.name for field in fields(View))


def hyperparameters(entry: Mapping[str, Any], declared: Sequence[str]) -> dict[str, Any]:
    """The hyperparameters in an entry of conf/metric/, for a function with the keywords `declared`."""
    others = {"metric", *KEYS} - set(declared)
    return {key: value for key, value in entry.items() if key not in others}


def views_of(
    entry: Mapping[str, Any], declared: Sequence[str], usual: Sequence[View]
) -> list[View]:
    """The views of an entry of conf/metric/: the usual ones with the fields that the entry sets."""
    fields_set = {key: entry[key] for key in KEYS if key in entry and key not in declared}
    return list(dict.fromkeys(replace(view, **fields_set) for view in usual))
