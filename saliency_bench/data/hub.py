"""A Hugging Face dataset: a hub id, a folder of `save_to_disk`, or a folder of data files."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from saliency_bench.core.errors import InputError, unknown
from saliency_bench.data import dataset
from saliency_bench.data.example import Example
from saliency_bench.data.readers import arrow_records, first_line
from saliency_bench.data.records import Columns, Record, to_examples

#: The builders of `datasets` that only parse tables. Others unpickle, unpack archives or decode media.
BUILDERS = ("arrow", "csv", "json", "parquet")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
TIMEOUT_SECONDS = 10.0
SAVED = (
    "dataset_dict.json",
    "state.json",
)  # files by which a folder of `save_to_disk` is recognised


@dataset
def load(
    *,
    path: str,
    split: str,
    name: str | None = None,
    revision: str | None = None,
    text: str,
    text_pair: str | None = None,
    label: str | None = None,
    id: str | None = None,
    relevant: str | None = None,
    relevant_format: str | None = None,
    options: str | None = None,
    segments: str | None = None,
    messages: str | None = None,
) -> list[Example]:
    """Returns the rows of one split as examples, in the order of the dataset; messages call the first row 1.

    Class labels become the names of the classes. No code from the dataset is run.

    Args:
        path: a local folder, or a hub id ("owner/name").
        split: train, test, ...; or a slice ("test[:100]"), except for data from `save_to_disk`.
        name: the dataset's configuration, if it has several.
        revision: commit, tag or branch of a hub id.
        text: column of the texts, or of lists of their words, which single spaces join.
        text_pair: column of the second texts, for pairs.
        label: column of the gold labels: class indices or names (`labels.resolve_label`).
        id: column of unique names; without it they are made from the texts (`records.to_examples`).
        relevant: column of the parts of `text` that are known to matter.
        relevant_format: spans, characters, hatexplain or eraser (`relevance.with_relevant`); None: by the values.
        options: column of lists of texts of which one may follow `text` (`fields.options_of`).
        segments: column of named segments of `text` (`fields.segments_of`), or of the user's last message in a chat.
        messages: column of chats, which are read instead of `text` (`fields.messages_of`).

    Raises:
        InputError: `datasets` is not installed, or the dataset or a row of it cannot be used.
    """
    columns = Columns(text, text_pair, label, id, relevant, options, segments, messages)
    folder = Path(path).expanduser()
    if folder.is_file():
        raise InputError(f"{path}: expected a folder or a hub id, got a file. Use data=file.")
    saved = any((folder / mark).is_file() for mark in SAVED)
    if saved:
        dataset = _load_saved(folder, split)
    else:
        dataset = _load_built(path, folder, split, name, revision)
    where = f"{path}[{split}]"
    return to_examples(_records(dataset, where, columns), columns, where, relevant_format)


def _load_saved(folder: Path, split: str) -> Any:
    """Returns a split from a folder of `save_to_disk`."""
    datasets = _import_datasets()
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # of many unrelated types: missing or damaged Arrow or JSON files
        raise InputError(
            f"{folder}: the saved dataset cannot be read ({_reason(error)}). Save it again."
        ) from None
    splits = saved if isinstance(saved, dict) else {str(saved.split or split): saved}
    if split not in splits:
        raise InputError(f"{folder}: {unknown('data.split', split, list(splits))}")
    return splits[split]


def _load_built(path: str, folder: Path, split: str, name: str | None, revision: str | None) -> Any:
    """Returns a split from data files, in a folder or on the hub."""
    datasets = _import_datasets()
    local = folder.is_dir()
    if not local:
        _check_hub(path, datasets.config)
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs is raised as well
    try:
        source = str(folder.absolute()) if local else path  # a folder may be called csv
        builder = datasets.load_dataset_builder(source, name, revision=revision)
        _refuse_other_builders(path, type(builder).__module__.rpartition(".")[2])
        builder.download_and_prepare()
        return builder.as_dataset(split=split)
    except InputError:
        raise
    except Exception as error:  # of many unrelated types: network, hub, split, parsing
        raise _unavailable(path, local, _reason(error)) from None
    finally:
        datasets.logging.set_verbosity(verbosity)


def _check_hub(path: str, config: Any) -> None:
    """Refuses a path that is no hub id, and a hub that does not answer: the library would retry for minutes."""
    if path in BUILDERS or not HUB_ID.fullmatch(
        path
    ):  # for "csv" the library would read files here
        raise InputError(f"{path}: there is no such folder (data.path, seen from {Path.cwd()})")
    if config.HF_HUB_OFFLINE:
        return
    from huggingface_hub import get_session

    try:
        get_session().head(config.HF_ENDPOINT, timeout=TIMEOUT_SECONDS)
    except Exception as error:  # of the HTTP client, which the library has changed before
        raise InputError(
            f"{path}: there is no such folder, and the hub {config.HF_ENDPOINT} does not answer "
            f"({first_line(error)}). Offline, give a local folder (data.path), or set "
            "HF_HUB_OFFLINE=1 to use what was downloaded before."
        ) from None


def _refuse_other_builders(path: str, builder: str) -> None:
    if builder not in BUILDERS:
        names = ", ".join(BUILDERS)
        raise InputError(f"{path}: data of the kind {builder!r}; only {names} files are read")


def _unavailable(path: str, local: bool, reason: str) -> InputError:
    if local:
        return InputError(f"{path}: the dataset cannot be read: {reason}")
    return InputError(
        f"{path}: there is no such folder, and no such dataset from the hub: {reason}. "
        "Check data.path, and the network unless HF_HUB_OFFLINE is set on purpose."
    )


def _records(dataset: Any, where: str, columns: Columns) -> Iterator[Record]:
    label = columns.label
    names = getattr(dataset.features.get(label), "names", None) if label else None

    def read(names: list[str]) -> Any:
        return dataset.select_columns(names).with_format("arrow")[:]

    for row, values in arrow_records(dataset.column_names, read, where, columns):
        if label and names:
            values = {**values, label: _class_name(values[label], names, f"{where}:{row}")}
        yield row, values


def _class_name(index: int | None, names: Sequence[str], where: str) -> str:
    # Hidden labels are -1 in the datasets of the hub.
    if index is None or not 0 <= index < len(names):
        raise InputError(f"{where}: the label is missing ({index}). Use a split that has labels.")
    return names[index]


def _reason(error: BaseException) -> str:
    """Returns the first line of the original error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError(
            "data=hub needs the package datasets, which is not installed. "
            "Run: pip install 'saliency-bench[data]'"
        ) from None
    return datasets
