"""Checks that the tables on disk have the planned rows of this run, with one part in memory at a time."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from saliency_bench.core.errors import StorageError, counted
from saliency_bench.core.rows import FAILED, OK, SORT_KEYS, TABLES
from saliency_bench.store.durable import storing
from saliency_bench.store.parquet import from_parquet
from saliency_bench.store.parts import sealed_record

_Key = tuple[Any, ...]  # the columns of `SORT_KEYS` after the cell


@dataclass(frozen=True)
class Plan:
    """The rows that the tables of a run must have.

    `texts` are the ids of the texts by part. `settings` are the ids of the settings with maps, in their order, and
    `evaluated` of those with rows. `metrics` are the (metric, removal) pairs of every map, and `curves` those of them that
    are read from stored curves. `agreement` are the metrics of every two settings, `convergence` the (setting, against)
    pairs of the texts in `probed`. `timings` is the name of the part with `repeats` timings of every setting; None: there
    are no timings.
    """

    cell_id: str
    texts: Mapping[str, Sequence[str]]
    settings: Sequence[str] = ()
    evaluated: Sequence[str] = ()
    metrics: Sequence[tuple[str, str | None]] = ()
    curves: Sequence[tuple[str, str]] = ()
    agreement: Sequence[str] = ()
    convergence: Sequence[tuple[str, str]] = ()
    probed: frozenset[str] = frozenset()
    timings: str | None = None
    repeats: int = 0

    @property
    def parts(self) -> list[str]:
        """The names of all parts."""
        return [*self.texts, *([] if self.timings is None else [self.timings])]


def require_planned(folder: Path, plan: Plan) -> None:
    """Checks that every table of every part is of this run's cell and has exactly the planned rows, each once.

    Missing parts are skipped, since `PartStore.seal` checks that all are there. Nothing is checked in a sealed run, whose
    remaining parts are about to be removed.

    Raises:
        StorageError: a part is of another cell, lacks rows, has rows twice, or has unplanned rows; the first is named.
    """
    if sealed_record(folder) is not None:
        return
    for name in plan.parts:
        if (part := folder / "parts" / name).is_dir():
            _Part(part, plan).check()


class _Part:
    """The keys of one part's tables, and the planned ones."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.ids = plan.texts.get(folder.name, ())
        self.keys = {name: self._read(name, SORT_KEYS[name][1:]) for name in TABLES}

    def check(self) -> None:
        """Raises `StorageError` for the first table that is not as planned."""
        plan, ids = self.plan, self.ids
        timed = plan.settings if self.folder.name == plan.timings else ()
        probed = [text for text in ids if text in plan.probed]
        self._same("examples", product(ids))
        self._same("rows", _joined(product(plan.evaluated), ids, plan.metrics))
        pairs = combinations(plan.settings, 2)
        self._same("agreement", _joined(pairs, ids, product(plan.agreement)))
        self._same(
            "convergence", ((s, text, of) for (s, of) in plan.convergence for text in probed)
        )
        self._same("timings", product(timed, range(plan.repeats)))
        self._same("maps", product(plan.settings, ids), may_lack=self._without_map())
        self._same("curves", self._curves())
        of_part = {"", *ids} if ids else set()
        self._same("warnings", (key for key in self.keys["warnings"] if key[0] in of_part))

    def _read(self, name: str, columns: Sequence[str]) -> list[_Key]:
        """Reads columns of every row of a table, and checks that its rows are of this run's cell."""
        path = self.folder / f"{name}.parquet"
        with storing(path):
            if not path.is_file():
                return []
            table = from_parquet(name, path.read_bytes(), path)
        if others := set(table["cell_id"].unique().to_pylist()) - {self.plan.cell_id}:
            raise StorageError(
                f"{self.folder}: table {name!r} is of another run: its cell (model, data and seed) is "
                f"{min(map(str, others))}, and that of this run {self.plan.cell_id}. {self._remedy}"
            )
        return list(zip(*(table[column].to_pylist() for column in columns), strict=True))

    def _same(
        self, name: str, planned: Iterable[_Key], may_lack: Iterable[_Key] = frozenset()
    ) -> None:
        rows, wanted = Counter(self.keys[name]), Counter(planned)
        lacking = (wanted - rows) - Counter(may_lack)
        for problem, keys in (("lacks", lacking), ("has unplanned", rows - wanted)):
            if keys:
                first = min(" ".join(map(str, row)) for row in keys)
                raise StorageError(
                    f"{self.folder}: table {name!r} {problem} {counted(keys.total(), 'row')}, for instance of {first}. {self._remedy}"
                )

    @property
    def _remedy(self) -> str:
        run = self.folder.parent.parent
        return f"Remove this folder, and go on with: saliency-bench resume {run}"

    def _without_map(self) -> list[_Key]:
        """Returns the settings and texts without a map, since a score is not finite: all their rows are failed."""
        rows = self._read("rows", ["setting_id", "example_id", "status"])
        for setting in ("setting_a", "setting_b"):
            rows += self._read("agreement", [setting, "example_id", "status"])
        statuses: dict[_Key, set[str]] = {}
        for setting, text, status in rows:
            statuses.setdefault((setting, text), set()).add(status)
        # A map that is neither evaluated nor compared has no status, and may be missing.
        every = {key: statuses.get(key, {FAILED}) for key in product(self.plan.settings, self.ids)}
        return [key for key, of_map in every.items() if FAILED in of_map and OK not in of_map]

    def _curves(self) -> list[_Key]:
        """Returns the planned curves: of a text at the same k under all settings, if any value was read from them."""
        of_curves = set(self.plan.curves)
        removals = sorted({removal for _, removal in of_curves})
        stored = {key[:3] for key in self.keys["curves"]}
        columns = ["setting_id", "example_id", "removal", "metric", "status"]
        read = {
            (setting, text, removal)
            for setting, text, removal, metric, status in self._read("rows", columns)
            if status == OK and (metric, removal) in of_curves
        }
        k_values: dict[_Key, dict[int, None]] = {}
        for _, text, removal, k in self.keys["curves"]:
            k_values.setdefault((text, removal), {})[k] = None
        return [
            (*key, k)
            for key in product(self.plan.settings, self.ids, removals)
            if key in read or key in stored
            for k in k_values.get(key[1:], {None: None})
        ]


def _joined(
    settings: Iterable[_Key], texts: Sequence[str], metrics: Iterable[_Key]
) -> Iterable[_Key]:
    """Yields every combination of the three as one key."""
    return ((*a, text, *b) for a, text, b in product(settings, texts, metrics))
