"""How a metric looks at a text: what replaces removed tokens, what counts as one unit, what is read of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

SIGNED = "signed"
ABSOLUTE = "absolute"
RANKINGS = (SIGNED, ABSOLUTE)


@dataclass(frozen=True)
class View:
    """One way to look at a text.

    `removal`: what replaces removed units (`removal.operators`). `granularity`: what a unit is (`units`). `output`: what
    is read of the explained class (`curves.OUTPUTS`). `ranking`: by the scores, or by their magnitudes.
    """

    removal: str
    granularity: str
    output: str
    ranking: str


def usual(removals: Sequence[str], granularity: str, output: str, ranking: str) -> list[View]:
    """One reading for each way of removing, the first being the main one."""
    return [View(removal, granularity, output, ranking) for removal in removals]


#: The keys of a metric entry that are no hyperparameters of its function, unless that has one of this name.
KEYS = tuple(field.name for field in fields(View))


def hyperparameters(entry: Mapping[str, Any], declared: Sequence[str]) -> dict[str, Any]:
    """What an entry of conf/metric/ says to its function, whose own keywords are `declared`."""
    apart = {"metric", *KEYS} - set(declared)
    return {key: value for key, value in entry.items() if key not in apart}


def views_of(
    entry: Mapping[str, Any], declared: Sequence[str], usual: Sequence[View]
) -> list[View]:
    """How an entry wants texts to be looked at: as usual, but for what it says itself."""
    own = {key: entry[key] for key in KEYS if key in entry and key not in declared}
    return list(dict.fromkeys(replace(one, **own) for one in usual))
