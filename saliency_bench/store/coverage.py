"""Whether the rows on disk are those of the plan, part by part, in the memory of one part."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from saliency_bench.errors import StorageError
from saliency_bench.store.durable import storing
from saliency_bench.store.tables import from_parquet

_Row = tuple[str | None, ...]
_KEYS = ["setting_id", "example_id", "metric", "removal"]


def require_planned(
    folder: Path, plan: Mapping[str, Sequence[str]], settings: Sequence[str]
) -> None:
    """Every part has its own texts, each once; every setting has all of its metrics on all of them, and no other rows.

    `plan` holds the ids of each part's texts; `settings` the ids of those that are judged, empty where none is. Parts
    that are not there are passed over: whether all are is known elsewhere.

    Raises:
        StorageError: a part lacks rows, has some twice, or has others'; the first is named.
    """
    metrics: dict[str | None, set[_Row]] = {}
    for name, ids in plan.items():
        part = folder / "parts" / name
        if not part.is_dir():
            continue
        texts = Counter(_read(part, "examples", ["example_id"]))
        _require_same(part, "examples", texts, Counter[_Row]((example,) for example in ids))
        rows = Counter(_read(part, "rows", _KEYS))
        for setting, _, metric, removal in rows if not metrics else ():
            metrics.setdefault(setting, set()).add((metric, removal))
        planned = Counter[_Row](
            (setting, example, *pair)
            for setting in settings
            for example in ids
            for pair in metrics.get(setting, {("any", None)})
        )
        _require_same(part, "rows", rows, planned)


def _read(part: Path, name: str, columns: Sequence[str]) -> list[_Row]:
    path = part / f"{name}.parquet"
    with storing(path):
        if not path.is_file():
            return []
        table = from_parquet(name, path.read_bytes(), path).select(columns)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _require_same(part: Path, table: str, found: Counter[_Row], planned: Counter[_Row]) -> None:
    for problem, left in (("lacks", planned - found), ("has unplanned", found - planned)):
        if left:
            first = min(" ".join(map(str, row)) for row in left)
            raise StorageError(
                f"{part}: table {table!r} {problem} {left.total()} rows, for instance of {first}. Remove this folder, "
                f"and go on with: saliency-bench resume {part.parent.parent}"
            )
