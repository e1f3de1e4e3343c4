"""A merge in a bounded memory gives the bytes of one that sorts everything at once, whatever the parts."""

import hashlib
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saliency_bench.core.errors import InputError
from saliency_bench.store import merging
from saliency_bench.store.merging import merge_files
from saliency_bench.store.parquet import from_parquet, merge, to_parquet, to_table


def row(setting, example, metric, removal=None, value=0.5):
    keys = {"cell_id": "c", "setting_id": setting, "example_id": example, "metric": metric}
    return keys | {"removal": removal, "value": value, "unit": "nats", "status": "ok"}


def many(n, seed=0):
    draw = random.Random(seed)
    keys = {
        (f"s{draw.randrange(3)}", f"e{draw.randrange(n)}é", draw.choice("ab"), draw.choice("xy"))
        for _ in range(n)
    }
    return [row(*key, value=draw.random()) for key in sorted(keys)]


def parts(folder, rows, n_parts, seed=0):
    draw, groups = random.Random(seed), [[] for _ in range(n_parts)]
    for one in rows:
        draw.choice(groups).append(one)
    files = []
    for place, group in enumerate(groups):
        files.append(folder / f"part{place}.parquet")
        files[-1].write_bytes(to_parquet(to_table("rows", group)))
    return files


def at_once(rows, most):
    """The slow oracle: the whole sorted table, cut to groups by hand."""
    whole = to_table("rows", rows)
    return [whole.slice(start, most).to_pylist() for start in range(0, len(whole), most)]


@pytest.mark.parametrize("most", [1, 7, 50, 399, 10_000])
@pytest.mark.parametrize("n_parts", [1, 3, 11])
def test_a_merge_in_buckets_has_the_rows_of_one_at_once(tmp_path, most, n_parts):
    rows = many(400)
    files = parts(tmp_path, rows, n_parts)
    target = tmp_path / "rows.parquet"
    digest = merge_files("rows", files, target, tmp_path / "scratch", most)
    assert digest == hashlib.sha256(target.read_bytes()).hexdigest()
    found = pq.ParquetFile(target)
    groups = [found.read_row_group(i).to_pylist() for i in range(found.num_row_groups)]
    assert groups == at_once(rows, most)
    assert list((tmp_path / "scratch").glob("*")) == []


def test_the_bytes_depend_on_the_rows_alone(tmp_path):
    rows, found = many(300), set()
    for n_parts, seed in [(1, 0), (4, 0), (4, 1), (9, 2)]:
        folder = tmp_path / f"{n_parts}-{seed}"
        folder.mkdir()
        files = parts(folder, rows, n_parts, seed)
        found.add(merge_files("rows", files, folder / "rows.parquet", folder / "scratch", 64))
    assert len(found) == 1


def test_a_table_of_one_group_is_written_as_ever(tmp_path):
    rows = many(100)
    files = parts(tmp_path, rows, 3)
    merge_files("rows", files, tmp_path / "rows.parquet", tmp_path / "scratch")
    assert (tmp_path / "rows.parquet").read_bytes() == to_parquet(to_table("rows", rows))


@pytest.mark.parametrize("most", [3, 1000])
def test_rows_of_one_key_that_differ_are_refused_and_nothing_is_there(tmp_path, most):
    rows = [*many(20), row("s0", "twice", "a", "x", 0.1), row("s0", "twice", "a", "x", 0.2)]
    files = [*parts(tmp_path, rows[:-1], 1), tmp_path / "other.parquet"]
    files[-1].write_bytes(to_parquet(to_table("rows", rows[-1:])))
    with pytest.raises(InputError, match="twice"):
        merge_files("rows", files, tmp_path / "rows.parquet", tmp_path / "scratch", most)
    assert not (tmp_path / "rows.parquet").exists()
    assert not list(tmp_path.glob(".rows*"))


def map_of(place, n_tokens=24):
    ints = list(range(n_tokens))
    row = {"cell_id": "c", "setting_id": f"s{place % 3}", "example_id": f"e{place:07d}"}
    row |= {"target": 1, "label": "x", "probability": 0.5, "n_gradients": 1}
    row |= {"tokens": [f"t{i * place % 999}" for i in ints], "attributable": [True] * n_tokens}
    row |= dict.fromkeys(("token_ids", "starts", "ends", "segments", "words"), ints)
    return row | {"scores": [i / 7 for i in ints]}


def merged_maps(folder, n, n_parts, seed=0):
    """The file of so many maps in parts, and the most memory that Arrow took to merge them."""
    draw, places = random.Random(seed), list(range(n))
    draw.shuffle(places)
    folder.mkdir()
    files = [folder / f"part{part}.parquet" for part in range(n_parts)]
    for part, file in enumerate(files):
        rows = [map_of(place) for place in places[part::n_parts]]
        file.write_bytes(to_parquet(to_table("maps", rows)))
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        merge_files("maps", files, folder / "maps.parquet", folder / "scratch")
    finally:
        pa.set_memory_pool(before)
    return folder / "maps.parquet", pool.max_memory()


def test_the_memory_of_merging_maps_does_not_grow_with_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "GROUP_VALUES", 60_000)
    few, peak_of_few = merged_maps(tmp_path / "few", 1000, 20)
    many, peak_of_many = merged_maps(tmp_path / "many", 4000, 80)
    assert peak_of_many < 1.5 * peak_of_few
    sizes = [pq.ParquetFile(file).metadata.row_group(0).num_rows for file in (few, many)]
    assert sizes == [256, 256]  # 60,000 values at 206 a map are 291 maps, down to a power of two


def test_the_bytes_of_maps_depend_on_the_rows_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "GROUP_VALUES", 20_000)
    found = {
        merged_maps(tmp_path / f"{n_parts}", 300, n_parts, n_parts)[0].read_bytes()
        for n_parts in (1, 4, 9)
    }
    assert len(found) == 1


texts = st.text(max_size=4)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(texts, texts, texts, st.none() | texts), unique=True, max_size=30),
    st.lists(st.integers(0, 3), min_size=30, max_size=30),
    st.integers(1, 12),
)
def test_any_text_is_sorted_as_arrow_sorts_it(tmp_path_factory, keys, places, most):
    folder = tmp_path_factory.mktemp("merge")
    rows = [row(*key, value=float(place)) for place, key in enumerate(keys)]
    files = []
    for part in range(4):
        own = [one for one, place in zip(rows, places, strict=False) if place == part]
        files.append(folder / f"{part}.parquet")
        files[-1].write_bytes(to_parquet(to_table("rows", own)))
    merge_files("rows", files, folder / "rows.parquet", folder / "scratch", most)
    read = from_parquet("rows", (folder / "rows.parquet").read_bytes(), "rows")
    assert read.to_pylist() == merge("rows", [to_table("rows", rows)]).to_pylist()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.none() | st.sampled_from("xy")), max_size=12))
def test_rows_that_are_repeated_exactly_are_kept_once(keys):
    rows = [row("s", "e", metric, removal) for metric, removal in keys]
    assert len(to_table("rows", rows)) == len(set(keys))
