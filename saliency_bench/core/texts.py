"""Which examples of a table are of one text: the text, not the example, is what is resampled, tested and counted.

Tasks that put several questions to a text have an example for each, and data may have a text more than once. Examples of
one text share most of what they are about, so their values are averaged first.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: The columns that name an example: settings are compared on the same examples.
UNIT = ["cell_id", "example_id"]
#: The column that names the text of an example, where several examples are of one text.
TEXT = "text_id"
#: How the example ids of questions end, in tasks that put several to a text (see `tasks.task.question_at`).
QUESTION = r"@(?:\d+|start|end|sum|mean)$"
#: The task that puts one question to a text, so that its ids may end as they like.
ONE_QUESTION = "sequence-classification"


def with_texts(
    table: "pd.DataFrame",
    manifest: Mapping[str, Any],
    repeated: Mapping[str, Mapping[str, str]] = {},
) -> "pd.DataFrame":
    """The table with a column `TEXT` where several examples are of one text, else the table as it is.

    Args:
        table: a table of a run.
        manifest: of the run.
        repeated: by cell, examples whose text an earlier example has (`Run.repeated`).
    """
    several = asks_several(manifest)
    if not several and not repeated:
        return table
    text = table["example_id"].astype(object)
    for cell, firsts in repeated.items():
        text = text.where(table["cell_id"] != cell, text.map(firsts).fillna(text))
    return table.assign(**{TEXT: text.str.replace(QUESTION, "", regex=True) if several else text})


def asks_several(manifest: Mapping[str, Any]) -> bool:
    """Whether the task of a study puts several questions to a text."""
    model = (manifest.get("config") or {}).get("model") or {}
    return bool(model.get("task", ONE_QUESTION) != ONE_QUESTION)


def index_of(table: "pd.DataFrame") -> list[str]:
    """The columns that name an example and, if the table has it, its text."""
    return [*UNIT, *([TEXT] if TEXT in table else [])]


def per_text(table: "pd.DataFrame") -> "pd.DataFrame":
    """One line for each text: the mean over its examples that have a value.

    Args:
        table: numbers, indexed by `index_of`.
    """
    if TEXT not in table.index.names:
        return table
    means = table.groupby(level=["cell_id", TEXT]).mean()
    means.index = means.index.set_names(UNIT)
    return means
