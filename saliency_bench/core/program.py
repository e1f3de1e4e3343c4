"""The command that started this program, so that messages name commands that the user can type."""

import os
import re
from collections.abc import Iterable

#: Set by scripts/bench.
VARIABLE = "SALIENCY_BENCH_PROGRAM"
NAME = "saliency-bench"
#: Wider lines of text on a terminal are hard to read.
WIDEST = 100
#: `model.name` and `data.dataset` of a study on a model and texts in memory.
MEMORY = "memory"
#: Words that select another model and other data.
ANOTHER_MODEL = "model=hub model.path=FOLDER_OR_HUB_ID"
CHANGE_OF_MODEL = f"{ANOTHER_MODEL} data=file data.path=FILE.csv data.text=COLUMN"
#: The same in Python.
STUDY_OF_ANOTHER_MODEL = 'sb.study(sb.load_model("FOLDER_OR_HUB_ID"), texts)'
_EXPERIMENT = re.compile(r"experiment=[\w/-]+")
_COMMAND = re.compile(rf"(?<![\w/-]){NAME}(?= [-a-z])")


def program() -> str:
    """Returns the first word of a command: `saliency-bench`, or the script that the user called instead."""
    return os.environ.get(VARIABLE, NAME)


def for_another_model(words: Iterable[str]) -> str:
    """Returns the words after `saliency-bench` that run the experiment of these words on another model and other data.

    A suite has data of its own, so that only the model is another.
    """
    words = [*words]
    if "suite" in words[:2]:
        at = words.index("suite")
        return " ".join([*words[at : at + 2], ANOTHER_MODEL])
    return " ".join([*filter(_EXPERIMENT.fullmatch, words), CHANGE_OF_MODEL])


def as_typed(text: str) -> str:
    """Returns a message with its commands as the user types them."""
    return _COMMAND.sub(lambda _: program(), text)
