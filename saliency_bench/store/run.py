"""Reads a finished run: its tables, settings and manifest. Imports no torch."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saliency_bench.core.errors import InputError, StorageError
from saliency_bench.core.rows import TABLES
from saliency_bench.store.durable import replace_file, storing, to_json
from saliency_bench.store.schema import check_manifest, check_same_settings, check_settings

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MANIFEST = "manifest.json"
SETTINGS = "settings.json"
CONFIG = "config.json"  # of an unfinished run: `resume` reads it
IDENTITY = "identity.json"  # everything that can change a number


@dataclass(frozen=True)
class Run:
    """One finished study.

    `tables` has a frame for every name in `rows.TABLES`, empty if the study has no such rows; a table is read at its first
    use. `columns` reads some columns of a large table alone. Booleans are pandas' nullable `boolean`; an integer column with
    nulls is float64 with NaN, as in pandas. Texts of a table of more than `parquet.MANY` rows are categories.
    """

    folder: Path
    manifest: dict[str, Any]
    settings: list[dict[str, Any]]
    tables: "Mapping[str, pd.DataFrame]"

    def columns(
        self, name: str, columns: Sequence[str], of: Mapping[str, Collection[Any]] | None = None
    ) -> "pd.DataFrame":
        """Returns columns of a table, in the rows whose columns in `of` have one of its values."""
        of = of or {}
        if isinstance(self.tables, Tables):
            return self.tables.read(name, columns, of)
        table = self.tables[name]
        for column, values in of.items():
            table = table[table[column].isin(values)]
        return table[[*columns]]

    @cached_property
    def repeated(self) -> dict[str, dict[str, str]]:
        """The examples whose text (and pair) occurs earlier, by cell, with the first example that has it."""
        examples = self.tables["examples"]
        text = examples.groupby(["cell_id", "text", "text_pair"], dropna=False, sort=False)
        first = text["example_id"].transform("first")
        later = first != examples["example_id"]
        repeated: dict[str, dict[str, str]] = {}
        for cell, example, of in zip(
            examples["cell_id"][later], examples["example_id"][later], first[later], strict=True
        ):
            repeated.setdefault(cell, {})[example] = of
        return repeated


class Tables(Mapping[str, "pd.DataFrame"]):
    """The tables of a sealed run whose files were verified, each read at its first use."""

    def __init__(self, folder: Path, names: Collection[str]) -> None:
        """`names` are the tables that the run has; the others have no rows."""
        self._folder, self._names = folder, names
        self._read: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str) -> "pd.DataFrame":
        if name not in self._read:
            self._read[name] = self.read(name, [*TABLES[name]], {})
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(TABLES)

    def __len__(self) -> int:
        return len(TABLES)

    def read(
        self, name: str, columns: Sequence[str], of: Mapping[str, Collection[Any]]
    ) -> "pd.DataFrame":
        """Reads columns of some rows from disk, so that other columns take no memory."""
        from saliency_bench.store.parquet import read_columns

        path = self._folder / f"{name}.parquet"
        if name in self._names and not path.is_file():
            raise StorageError(f"{path} was removed after the run was opened. Restore the file.")
        return _to_frame(read_columns(name, path, columns, of))


def read_run(folder: Path) -> Run:
    """Reads a run folder and verifies every table against its recorded digest.

    Raises:
        InputError: the folder is no run folder.
        StorageError: the run is unfinished, or a file is missing, damaged or of the wrong content.
    """
    from saliency_bench.store.parts import verify_sealed

    folder = Path(folder)
    _require_finished(folder)
    names = verify_sealed(folder)
    manifest = read_json(folder / MANIFEST, dict)
    check_manifest(manifest, folder / MANIFEST)
    settings = read_json(folder / SETTINGS, list)
    check_settings(settings, folder / SETTINGS)
    if (folder / IDENTITY).is_file():
        identity = read_json(folder / IDENTITY, dict)
        check_same_settings(settings, identity, folder / IDENTITY)
    return Run(
        folder=folder,
        manifest=manifest,
        settings=settings,
        tables=Tables(folder, names),
    )


def write_json(path: Path, value: Any) -> None:
    """Writes canonical JSON (keys sorted, one space of indentation) in one step.

    Raises:
        ValueError: NaN or infinity in `value`; the file is as it was.
        StorageError: the disk refuses.
    """
    replace_file(Path(path), to_json(value))


def _require_finished(folder: Path) -> None:
    ours = (folder / "parts").is_dir() or (folder / SETTINGS).is_file()
    if (folder / MANIFEST).is_file():  # the last file that a run writes
        if ours:
            return
        name = read_json(folder / MANIFEST, dict).get("name")
        raise InputError(
            f"{folder} is no run folder: {name!r} wrote it. Give the folder of a study."
        )
    if ours:
        raise StorageError(f"{folder} is unfinished: {how_to_finish(folder)}")
    raise InputError(
        f"{folder} is no run folder: it has no {MANIFEST}. Give a folder that saliency-bench wrote."
    )


def how_to_finish(folder: Path) -> str:
    """Returns the advice to finish a run folder without a manifest."""
    if (folder / CONFIG).is_file():
        return f"it has no {MANIFEST} yet. Go on with it: saliency-bench resume {folder}"
    # The last step of a run removes what `resume` reads.
    return (
        f"it has neither {MANIFEST} nor {CONFIG}. Restore the {MANIFEST}, or give the command that made the run again, "
        f"with out={folder}: what is finished is not computed anew."
    )


def read_json(path: Path, kind: type) -> Any:
    """Reads a JSON file of a run, which must have the type `kind` (dict or list).

    Raises:
        StorageError: it has another type, or cannot be read.
    """
    with storing(path):
        try:
            value = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise StorageError(f"{path} is not JSON ({error}). Restore the file.") from error
    if not isinstance(value, kind):
        raise StorageError(f"{path}: expected a {kind.__name__}, got a {type(value).__name__}.")
    return value


def _to_frame(table: "pa.Table") -> "pd.DataFrame":
    """Converts a table to pandas. Categories, which texts of very many rows are, are in the order of texts."""
    import pandas as pd
    import pyarrow as pa

    # With nulls pandas would make a column of Python objects, on which `~` is arithmetic.
    frame = table.to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
    for name, column in frame.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            frame[name] = column.cat.reorder_categories(sorted(column.cat.categories))
    return frame
