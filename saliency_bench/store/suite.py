"""Suites, which are frozen, named studies, and the submissions to them. Imports no torch.

A submission is a run folder without the tables that a check does not need. It may come from somebody else: names, sizes and
digests are checked before anything is read, and numbers before they are used.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, StorageError, one_of, shown
from saliency_bench.core.rows import TABLES, digest
from saliency_bench.store.durable import refuse_links, replace_file, sha256, storing, to_json
from saliency_bench.store.pages import refuse_bombs
from saliency_bench.store.parquet import check, from_parquet
from saliency_bench.store.parts import DIGESTS, sealed_record, verify_sealed
from saliency_bench.store.run import IDENTITY, MANIFEST, SETTINGS, Run, read_json, read_run

#: The group of conf/ whose files are suites.
GROUP = "suite"
#: The digest of the content of each suite. It never changes: a study with other numbers gets another name.
CONTENTS = {"v1": "e33560f6e1238c51"}
#: The sections of the configuration that a submitter chooses, besides methods.
CHOSEN = ("model", "runtime", "out")
#: The sections that a suite does not fix: these, and the look of a report.
UNFIXED = (*CHOSEN, "report")
#: Keys that were added to configurations after the first suite, dotted, each with the value that changes no number. A key
#: with this value is not part of the content.
ADDED: Mapping[str, Any] = {}
#: The beginnings of values that name a file of the submitter's machine.
_FILES = ("vector:", "file:")
#: The tables of a submission, and those that it must have.
KEPT = ("convergence", "examples", "maps", "rows", "timings", "warnings")
NEEDED = ("examples", "maps", "rows", "timings")
#: Columns of maps that are never null.
MAP_LISTS = ("tokens", "attributable", "starts", "ends", "scores")
DOCUMENTS = (IDENTITY, MANIFEST, SETTINGS)
MOST_BYTES = 5_000_000
#: The limit on the unpacked tables: those of a hundred texts have about a hundredth of it.
MOST_UNPACKED = 200_000_000
#: The limit on the settings of a submission. Every two are compared, and with more of them only larger differences show.
MOST_SETTINGS = 50
#: The key of the manifest with the suite, its content, and the packages of the submitted methods.
SUITE = "suite"
#: The key of the manifest with the requested removal operators, in a run whose model lacks one of them.
REQUESTED_REMOVAL = "asked_removal"
#: Facts of a model about its place. They do not identify it; the digests of its weights do.
_PLACE = ("name", "path", "source", "revision")
#: The result of verification of a submission that was not verified.
NOT_VERIFIED = "no"


@dataclass(frozen=True)
class Submission:
    """A checked submission: the run, the name of its suite, and the content digest of this suite.

    `verified` is the result of verification from the reader's own record (`store.verified`).
    """

    run: Run
    suite: str
    content: str
    verified: str = NOT_VERIFIED

    @property
    def digest(self) -> str:
        """The digest of the file that has the digests of all others."""
        with storing(path := self.run.folder / DIGESTS):
            return sha256(path.read_bytes())

    @property
    def name(self) -> str:
        """The name on a page: that of its folder."""
        return self.run.folder.resolve().name

    @property
    def methods(self) -> Mapping[str, Any]:
        """The package of each method that is not the suite's own, by entry."""
        methods: dict[str, Any] = self.run.manifest[SUITE]["methods"]
        return methods


def opponents(suite: str) -> list[str]:
    """Returns the method entries of a suite, which every submission has.

    Raises:
        InputError: there is no such suite.
    """
    for choice in conf_files.read(GROUP, suite)["defaults"]:
        if "override /method" in choice:
            return list(choice["override /method"])
    raise InputError(f"conf/{GROUP}/{suite}.yaml selects no method")


def content(suite: str, config: Mapping[str, Any], texts: Iterable[tuple[str, str | None]]) -> str:
    """Returns the digest of everything that a suite fixes: the values of its configuration, its opponents, and the texts.

    Args:
        suite: its name in conf/suite/.
        config: the composed configuration as plain data, before a model changed it.
        texts: text and second text of each example.
    """
    config = _without(config, ADDED)
    fixed = {key: value for key, value in config.items() if key not in UNFIXED}
    methods = config.get("method") or {}
    # The order counts, since it breaks ties in a table.
    fixed["method"] = [[name, methods.get(name)] for name in opponents(suite)]
    several = sorted({(text, pair or "") for text, pair in texts})
    return digest(json.loads(json.dumps({"config": fixed, "texts": several})), 16)


def _without(
    config: Mapping[str, Any], values: Mapping[str, Any], head: str = ""
) -> dict[str, Any]:
    """Returns a configuration without the keys that have these values."""
    return {
        key: _without(value, values, f"{head}{key}.") if isinstance(value, dict) else value
        for key, value in config.items()
        if not (f"{head}{key}" in values and values[f"{head}{key}"] == value)
    }


def suite_of(run: Run) -> tuple[str, str]:
    """Returns the suite of a run, and its content digest.

    Raises:
        InputError: the run is not of a suite, or its content is another, or it names files.
    """
    config = dict(run.manifest.get("config") or {})
    name = str(config.get("name")).removeprefix(f"{GROUP}_")
    if name not in CONTENTS or config.get("name") != f"{GROUP}_{name}":
        raise InputError(
            f"{run.folder} is not a run of a suite. Make one with: saliency-bench suite v1"
        )
    refuse_files(config.get("method") or {})
    if (requested := run.manifest.get(REQUESTED_REMOVAL)) is not None:
        config["evaluation"] = {**(config.get("evaluation") or {}), "removal": requested}
    examples = run.tables["examples"]
    pairs = examples["text_pair"].astype(object).where(examples["text_pair"].notna(), None)
    of_run = content(name, config, zip(examples["text"], pairs, strict=True))
    if of_run != CONTENTS[name]:
        raise InputError(
            f"{run.folder} says that it is of suite {name}, whose content is {CONTENTS[name]}, but its own is {of_run}: "
            "a number or a text was changed."
        )
    return name, of_run


def refuse_files(methods: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses entries that name files: nobody else could compute them, and a file of the reader might have that name."""
    for name, entry in methods.items():
        for key, value in entry.items():
            values = value if isinstance(value, list) else [value]
            if key == "path" or any(
                isinstance(text, str) and text.startswith(_FILES) for text in values
            ):
                raise InputError(
                    f"method.{name}.{key} names a file, which nobody else has. A suite takes only methods that compute their scores."
                )


def packages(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns the installed package that adds each method, with its version and the digest of the method's file."""
    points = {point.name: point for point in entry_points(group="saliency_bench.methods")}
    installed = {}
    for name in names:
        if (point := points.get(name)) is not None:
            spec = find_spec(point.module)
            data = Path(spec.origin).read_bytes() if spec and spec.origin else b""
            package = "" if point.dist is None else f"{point.dist.name} {point.dist.version}"
            installed[name] = {"package": package, "sha256": sha256(data)}
    return installed


def identity_of_model(facts: Any) -> dict[str, Any]:
    """Returns the facts of a model without its place: the same weights may lie in a folder of another name."""
    return {key: value for key, value in dict(facts or {}).items() if key not in _PLACE}


def pack(folder: Path, out: Path) -> Submission:
    """Makes the submission of a finished run in an empty folder.

    Raises:
        InputError: the run is not of a suite, or `out` has other files.
        StorageError: the submission would be too large, or the disk refuses.
    """
    run = read_run(folder)
    suite, of_suite = suite_of(run)
    if out.is_dir() and {path.name for path in out.iterdir()} - {*DOCUMENTS, DIGESTS, *_files()}:
        raise InputError(f"{out} holds other files. Give a new folder: out=FOLDER")
    fixed = opponents(suite)
    others = [setting["method"] for setting in run.settings if setting["name"] not in fixed]
    manifest = run.manifest | {
        SUITE: {"name": suite, "content": of_suite, "methods": packages(dict.fromkeys(others))}
    }
    data = {
        name: to_json(value)
        for name, value in (
            (IDENTITY, read_json(folder / IDENTITY, dict)),
            (MANIFEST, manifest),
            (SETTINGS, run.settings),
        )
    }
    tables = {name: (folder / name).read_bytes() for name in _files() if (folder / name).is_file()}
    record = {
        "blocks": (sealed_record(folder) or {})["blocks"],
        "files": {name: sha256(value) for name, value in tables.items()},
        "documents": {name: sha256(value) for name, value in data.items()},
    }
    files = {**data, **tables, DIGESTS: to_json(record)}
    _refuse_large(folder, sum(map(len, files.values())))
    with storing(out):
        for name in _files():
            (out / name).unlink(missing_ok=True)  # of an earlier submission
    for name, value in files.items():
        replace_file(out / name, value)
    try:
        return read(out)
    except (InputError, StorageError):
        for name in files:
            (out / name).unlink()
        raise


def read(folder: Path) -> Submission:
    """Reads and checks a submission.

    Raises:
        InputError: it is not of a suite, or its content is another, or it has too many settings.
        StorageError: it has other files or links, is too large, differs from its digests, lacks rows, has unplanned ones,
            or has numbers that are not finite.
    """
    folder = Path(folder)
    _refuse_other_files(folder)
    _check_documents(folder)
    listed = {f"{name}.parquet" for name in verify_sealed(folder)}
    if other := sorted(listed ^ {path.name for path in folder.glob("*.parquet")}):
        raise StorageError(f"{folder / DIGESTS} does not name the digest of {other[0]}.")
    refuse_bombs(folder, MOST_UNPACKED)
    run = read_run(folder)
    refuse_many(folder, len(run.settings))
    entry = run.manifest.get(SUITE)
    if not (isinstance(entry, dict) and _are_packages(entry.get("methods"))):
        raise StorageError(f"{folder / MANIFEST}: expected {SUITE} with its name and methods.")
    for name in KEPT:
        if (path := folder / f"{name}.parquet").is_file():
            _check_table(name, path)
        elif name in NEEDED:
            raise StorageError(f"{folder} lacks {path.name}.")
    suite, of_suite = suite_of(run)
    _check_identity(run)
    _check_rows(run)
    return Submission(run, suite, of_suite)


def _files() -> list[str]:
    return [f"{name}.parquet" for name in KEPT]


def _refuse_other_files(folder: Path) -> None:
    if not (folder / DIGESTS).is_file():
        raise InputError(
            f"{folder} is not a submission: it has no {DIGESTS}. Make one with: saliency-bench submit DIR"
        )
    refuse_links(folder)
    with storing(folder):
        paths = sorted(folder.iterdir())
        for path in paths:
            if path.name not in (*DOCUMENTS, DIGESTS, *_files()) or not path.is_file():
                raise StorageError(
                    f"{folder} holds {path.name!r}, which no submission has. Make a submission with: saliency-bench submit DIR"
                )
        _refuse_large(folder, sum(path.stat().st_size for path in paths))


def _refuse_large(folder: Path, n_bytes: int) -> None:
    if n_bytes > MOST_BYTES:
        raise StorageError(
            f"{folder}: a submission has at most {MOST_BYTES / 1e6:g} MB, this one {n_bytes / 1e6:.1f} MB. "
            "Submit fewer methods at a time."
        )


def refuse_many(where: object, n_settings: int) -> None:
    """Refuses more settings than a submission may have."""
    if n_settings > MOST_SETTINGS:
        raise InputError(
            f"{where}: a submission has at most {MOST_SETTINGS} settings, this one {n_settings}. Submit fewer methods at a time."
        )


def _check_documents(folder: Path) -> None:
    """Checks the JSON files against the recorded digests; the tables' are checked when the run is read."""
    documents = (sealed_record(folder) or {}).get("documents")
    if not isinstance(documents, dict) or sorted(documents) != sorted(DOCUMENTS):
        raise StorageError(
            f"{folder / DIGESTS} does not name the digests of {', '.join(DOCUMENTS)}."
        )
    for name in DOCUMENTS:
        with storing(folder / name):
            if sha256((folder / name).read_bytes()) != documents[name]:
                raise StorageError(
                    f"{folder / name} was altered: its SHA-256 is not the one recorded."
                )


def _check_table(name: str, path: Path) -> None:
    """Refuses numbers that are not finite, lists that are null, and values without a status or the reverse."""
    table = from_parquet(name, path.read_bytes(), path)
    try:
        check(name, table)
    except InputError as error:
        raise StorageError(f"{path}: {error}") from error
    for key in MAP_LISTS if name == "maps" else ():
        if table[key].null_count or pc.list_flatten(table[key]).null_count:
            raise StorageError(f"{path}: {key} of a map are null.")


def _are_packages(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(facts, dict)
        and facts.keys() == {"package", "sha256"}
        and all(isinstance(text, str) for text in facts.values())
        for facts in value.values()
    )


def _check_identity(run: Run) -> None:
    """Checks that the manifest, which pages show, agrees with the identity, which `verify` checks."""
    identity, manifest = read_json(run.folder / IDENTITY, dict), run.manifest
    config = identity.get("config")
    pairs = {
        "model": (manifest.get("model"), identity.get("model")),
        "data": (manifest.get("data"), identity.get("data")),
        "machine": (manifest.get("identity"), identity.get("environment")),
        "evaluation": (manifest["config"]["evaluation"], isinstance(config, dict) and config.get("evaluation")),
    }  # fmt: skip
    for name, (shown_facts, checked_facts) in pairs.items():
        if not shown_facts or shown_facts != checked_facts:
            raise StorageError(
                f"{run.folder}: {MANIFEST} and {IDENTITY} do not have the same {name}."
            )


def _check_rows(run: Run) -> None:
    """Checks that every setting has each metric of each example once, so that nobody gains by leaving out texts."""
    rows, config = run.tables["rows"], run.manifest["config"]
    missing = [name for name in opponents(str(config["name"]).removeprefix(f"{GROUP}_"))
               if name not in {setting["name"] for setting in run.settings}]  # fmt: skip
    if missing:
        raise StorageError(f"{run.folder} lacks the suite's method {missing[0]}.")
    removal = rows["removal"].astype(object).where(rows["removal"].notna(), None)
    keys = list(zip(rows["setting_id"], rows["example_id"], rows["metric"], removal, strict=True))
    views = {key[2:] for key in keys}
    removals = {operator for _, operator in views} - {None}
    planned = {
        (metric, operator)
        for metric in config["metric"]
        for operator in ([None] if (metric, None) in views else sorted(removals))
    }
    settings = [setting["setting_id"] for setting in run.settings]
    wanted = set(product(settings, run.tables["examples"]["example_id"], planned))
    present = {(setting, example, tuple(view)) for setting, example, *view in keys}
    if (
        not removals
        or removals != set(config["evaluation"].get("removal") or ())
        or present != wanted
        or len(keys) != len(present)
    ):
        first = min(map(str, present ^ wanted), default="")
        raise StorageError(
            f"{run.folder}: the rows are not those of the suite: {len(wanted - present)} are missing, "
            f"{len(present - wanted)} are unplanned, for instance {shown(first)}."
        )
    kinds = rows[["metric", "unit", "higher_is_better"]].drop_duplicates()
    if kinds["metric"].duplicated().any():
        raise StorageError(f"{run.folder}: a metric has several units or directions.")
    cells = {cell for name in TABLES for cell in set(run.columns(name, ["cell_id"])["cell_id"])}
    if cells != {run.manifest.get("cell_id")}:
        raise StorageError(f"{run.folder} has rows of another model, data or seed than its own.")


def check_name(suite: str) -> None:
    """Checks that a suite has this name.

    Raises:
        InputError: none has; the message suggests the nearest name.
    """
    one_of("suite", suite, CONTENTS)
