"""Tables that are not those of the plan or of this run are noticed: in any table of any part, in either direction."""

from itertools import product

import pytest

from saliency_bench.core.errors import StorageError
from saliency_bench.core.rows import TABLES
from saliency_bench.store.coverage import Plan, require_planned
from saliency_bench.store.parts import PartStore

METRICS = [("srg", "mask"), ("srg", "pad"), ("gap", None)]
PLAN = Plan(
    cell_id="c",
    texts={"a": ["e1", "e2"], "b": ["e3"]},
    settings=["s1", "s2"],
    evaluated=["s1", "s2"],
    metrics=METRICS,
    curves=[("srg", "mask"), ("srg", "pad")],
    agreement=["kendall_tau"],
    convergence=[("s2", "doubled")],
    probed=frozenset({"e2", "e3"}),
    timings="timing",
    repeats=2,
)
ENDS = {"e1": (0, 1, 2), "e2": (0, 2, 5), "e3": (0, 1)}  # the k of each text's curves


def tables_of(ids, cell="c"):
    """All tables of the texts, written out by hand from what the plan says."""
    ok, of = {"value": 0.5, "status": "ok"}, {"cell_id": cell}
    names = ("token_ids", "starts", "ends", "segments", "words", "scores", "tokens", "attributable")
    lists: dict[str, list[object]] = {name: [] for name in names}
    found = {
        "examples": [{"example_id": e, "text": "t", "n_tokens": 3} for e in ids],
        "rows": [
            {"setting_id": s, "example_id": e, "metric": metric, "removal": removal, **ok}
            for s, e, (metric, removal) in product(("s1", "s2"), ids, METRICS)
        ],
        "maps": [
            {"setting_id": s, "example_id": e, "n_gradients": 1, **lists}
            for s, e in product(("s1", "s2"), ids)
        ],
        "curves": [
            {"setting_id": s, "example_id": e, "removal": removal, "k": k, "n_units": 5}
            for s, e, removal in product(("s1", "s2"), ids, ("mask", "pad"))
            for k in ENDS[e]
        ],
        "agreement": [
            {"setting_a": "s1", "setting_b": "s2", "example_id": e, "metric": "kendall_tau", **ok}
            for e in ids
        ],
        "convergence": [
            {"setting_id": "s2", "example_id": e, "against": "doubled"} for e in ids if e != "e1"
        ],
        "warnings": [{"example_id": "", "source": "model", "message": "m"}]
        + [{"example_id": e, "source": "data", "message": "m"} for e in ids],
    }
    return {name: [of | row for row in rows] for name, rows in found.items()}


TIMINGS = [
    {"cell_id": "c", "setting_id": s, "repeat": repeat, "seconds": 0.1}
    for s, repeat in product(("s1", "s2"), (0, 1))
]


def stored(folder, tables=None, timings=TIMINGS):
    """A folder whose part b has these tables; the rest is as planned."""
    store = PartStore(folder)
    store.write("a", tables_of(["e1", "e2"]))
    store.write("b", tables_of(["e3"]) if tables is None else tables)
    store.write("timing", {"timings": timings})
    return folder


def test_tables_of_the_plan_are_taken(tmp_path):
    require_planned(stored(tmp_path), PLAN)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_another_cell_is_refused_in_any_part(tmp_path, name):
    tables, timings = tables_of(["e3"]), TIMINGS
    if name == "timings":
        timings = [row | {"cell_id": "other"} for row in TIMINGS]
    else:
        tables[name] = tables_of(["e3"], "other")[name]
    folder = stored(tmp_path, tables, timings)
    with pytest.raises(StorageError, match=rf"table '{name}' is of another run.* is other, .* c\."):
        require_planned(folder, PLAN)


@pytest.mark.parametrize("name", [*TABLES])
def test_a_row_too_many_is_named_in_any_table(tmp_path, name):
    tables = tables_of(["e3"])
    tables.setdefault(name, []).append(
        (tables_of(["e1", "e2"])[name] if name != "timings" else TIMINGS)[-1]
    )
    with pytest.raises(StorageError, match=rf"b: table '{name}' has unplanned 1 row,"):
        require_planned(stored(tmp_path, tables), PLAN)


@pytest.mark.parametrize("name", [name for name in TABLES if name != "warnings"])
@pytest.mark.parametrize("kept", [0, -1], ids=["all", "one"])
def test_a_row_too_few_is_named_in_any_table(tmp_path, name, kept):
    tables, timings = tables_of(["e3"]), TIMINGS
    n = len(timings if name == "timings" else tables[name])
    if name == "timings":
        timings = timings[:kept]
    else:
        tables[name] = tables[name][:kept]
    lacking = n if kept == 0 else 1
    if name == "curves" and kept == 0:
        lacking = (
            4  # two settings, two removals: at which k is not known where there is no curve at all
        )
    with pytest.raises(StorageError, match=rf"table '{name}' lacks {lacking} row"):
        require_planned(stored(tmp_path, tables, timings), PLAN)


def test_a_setting_and_a_metric_that_were_not_planned_are_named(tmp_path):
    for place, change in enumerate(({"setting_id": "s3"}, {"metric": "new"}, {"removal": "none"})):
        tables = tables_of(["e3"])
        tables["rows"].append(tables["rows"][0] | change)
        with pytest.raises(StorageError, match="table 'rows' has unplanned 1 row,"):
            require_planned(stored(tmp_path / str(place), tables), PLAN)


def test_a_map_may_lack_where_a_score_is_not_finite_and_nothing_about_it_has_a_value(tmp_path):
    tables = tables_of(["e3"])
    failed = {"value": None, "status": "failed", "reason": "a score is not finite"}
    tables["rows"] = [row | failed if row["setting_id"] == "s2" else row for row in tables["rows"]]
    tables["agreement"] = [row | failed for row in tables["agreement"]]
    for name in ("maps", "curves"):
        tables[name] = [row for row in tables[name] if row["setting_id"] != "s2"]
    require_planned(stored(tmp_path / "failed", tables), PLAN)
    tables["rows"][-1] |= {"value": 0.5, "status": "ok", "reason": None}
    with pytest.raises(StorageError, match="table 'maps' lacks 1 row, for instance of s2 e3"):
        require_planned(stored(tmp_path / "value", tables), PLAN)


def test_a_study_without_metrics_has_texts_and_maps_and_no_rows(tmp_path):
    plan = Plan(cell_id="c", texts={"b": ["e3"]}, settings=["s1", "s2"])
    tables = {name: tables_of(["e3"])[name] for name in ("examples", "maps")}
    PartStore(tmp_path).write("b", tables)
    require_planned(tmp_path, plan)
    evaluated = Plan("c", {"b": ["e3"]}, ["s1", "s2"], ["s1", "s2"], METRICS)
    with pytest.raises(StorageError, match="table 'rows' lacks 6 rows"):
        require_planned(tmp_path, evaluated)


def test_of_a_sealed_run_no_part_is_asked(tmp_path):
    folder = stored(tmp_path)
    part = {path.name: path.read_bytes() for path in (folder / "parts" / "b").iterdir()}
    PartStore(folder).seal(PLAN.parts)
    (folder / "parts" / "b").mkdir(parents=True)
    for name in ("digests.json", "rows.parquet"):  # as of a kill while the part was removed
        (folder / "parts" / "b" / name).write_bytes(part[name])
    require_planned(folder, PLAN)
    PartStore(folder).seal(PLAN.parts)
    assert not (folder / "parts").exists()
