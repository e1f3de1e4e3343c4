"""Two runs beside each other: nothing where they are equal, the field where they are not."""

from dataclasses import replace

import numpy as np
import pytest

from saliency_bench.report.differences import changed, differences


def by_name(a, b):
    return {table.name: table for table in differences(a, b)}


def test_a_run_does_not_differ_from_itself(run):
    found = by_name(run, run)
    assert found["fields"].rows == ()
    assert "Nothing" in found["fields"].caption
    assert found["settings"].rows == ()
    for row in found["rows"].rows:
        assert row[1] > 0
        assert row[2:5] == (0, 0, 0)


def test_a_changed_value_is_found_with_its_place_and_its_size(run):
    rows = run.tables["rows"].copy()
    place = int(np.flatnonzero(rows["value"].notna())[0])
    rows.loc[place, "value"] += 0.25
    other = replace(run, tables=dict(run.tables) | {"rows": rows})
    row = {one[0]: one for one in by_name(run, other)["rows"].rows}["rows"]
    assert row[4] == 1
    assert row[5] == pytest.approx(0.25)
    assert str(rows.loc[place, "example_id"]) in row[6]


def test_missing_rows_are_counted_on_their_side(run):
    other = replace(run, tables=dict(run.tables) | {"rows": run.tables["rows"].iloc[2:]})
    row = {one[0]: one for one in by_name(run, other)["rows"].rows}["rows"]
    assert row[2:4] == (2, 0)


def test_fields_are_named_by_their_place(run):
    manifest = dict(run.manifest)
    manifest["config"] = dict(manifest.get("config") or {}) | {"seed": 7}
    found = by_name(run, replace(run, manifest=manifest))["fields"].rows
    assert [row[0] for row in found] == ["config.seed"]
    assert found[0][2] == "7"


def test_a_setting_that_only_one_has_is_told_by_what_is_nearest(run):
    one = dict(run.settings[0]) | {"setting_id": "new", "seed": 99}
    other = replace(run, settings=[one, *run.settings[1:]])
    rows = by_name(run, other)["settings"].rows
    assert {row[0] for row in rows} == {run.settings[0]["setting_id"], "new"}
    assert all("seed" in row[3] for row in rows)


def test_changed_goes_into_mappings_and_takes_lists_whole():
    a, b = {"x": {"y": 1, "z": [1, 2]}}, {"x": {"y": 2, "z": [1, 3]}, "w": None}
    assert list(changed(a, b, "m")) == [("m.x.y", 1, 2), ("m.x.z", [1, 2], [1, 3])]
