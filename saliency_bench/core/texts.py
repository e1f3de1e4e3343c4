"""Groups the examples of a table by text: statistics resample, test and count texts, not examples.

Tasks with several questions per text have an example for each question, and data may have a text more than once. Examples
of one text are not independent, so their values are averaged first.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: The columns that name an example: settings are compared on the same examples.
UNIT = ["cell_id", "example_id"]
#: The column that names the text of an example, where several examples are of one text.
TEXT = "text_id"
#: The end of an example id in tasks with several questions per text (see `tasks.task`).
QUESTION = r"@(?:\d+|start|end|sum|mean)$"
#: The task with one question per text, whose ids may end in any way.
ONE_QUESTION = "sequence-classification"


def with_texts(
    table: "pd.DataFrame",
    manifest: Mapping[str, Any],
    repeated: Mapping[str, Mapping[str, str]] = {},
) -> "pd.DataFrame":
    """Returns the table with a column `TEXT` if several examples are of one text, else the table itself.

    Args:
        table: a table of a run.
        manifest: the manifest of the run.
        repeated: by cell, examples whose text an earlier example has (`Run.repeated`).
    """
    several = has_several_questions(manifest)
    if not several and not repeated:
        return table
    text = table["example_id"].astype(object)
    for cell, firsts in repeated.items():
        text = text.where(table["cell_id"] != cell, text.map(firsts).fillna(text))
    return table.assign(**{TEXT: text.str.replace(QUESTION, "", regex=True) if several else text})


def has_several_questions(manifest: Mapping[str, Any]) -> bool:
    """Whether the task of a study has several questions per text."""
    model = (manifest.get("config") or {}).get("model") or {}
    return bool(model.get("task", ONE_QUESTION) != ONE_QUESTION)


def index_of(table: "pd.DataFrame") -> list[str]:
    """Returns the columns that name an example and, if the table has it, its text."""
    return [*UNIT, *([TEXT] if TEXT in table else [])]


def per_text(table: "pd.DataFrame") -> "pd.DataFrame":
    """Returns one line for each text: the mean over its examples that have a value.

    Args:
        table: numbers, indexed by `index_of`.
    """
    if TEXT not in table.index.names:
        return table
    means = table.groupby(level=["cell_id", TEXT]).mean()
    means.index = means.index.set_names(UNIT)
    return means
