"""Costs that pages print are those of results/: every ratio with its interval, every range, and what must not be left out."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import backward_cost, decoder_cost, vanilla_cost
from saliency_bench.experiments.throughput import report
from saliency_bench.report.table import Estimate

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
NUMBER = r"\d+(?:\.\d+)?"
RATIO = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")
RANGE = re.compile(rf"({NUMBER}) to ({NUMBER})( %)?")
#: The parts of pages that print what computing costs.
PARTS = {
    "docs/findings.md": r"^## How fast\?$.*?(?=^## )",
    "docs/in_short.md": r"^- \*\*How fast\?\*\*.*?(?=^- )",
    "README.md": r"^- \*\*(?:How f|F)ast\?\*\*.*?(?=^- )",
}
FINDINGS, SHORT, README = PARTS


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def part(name):
    """The words of a page's part, whatever its line breaks."""
    found = re.search(PARTS[name], read(name), re.MULTILINE | re.DOTALL)
    return " ".join(found.group().split())


def is_printed(values, numbers):
    """Whether the numbers, as they are printed, are the values, to as many decimals."""
    decimals = [len(number.partition(".")[2]) for number in numbers]
    return [f"{v:.{d}f}" for v, d in zip(values, decimals, strict=True)] == [*numbers]


def stands(values, text):
    """Whether a ratio with its interval, or a number alone, is somewhere in the text."""
    alone = ((number,) for number in re.findall(r"\d+\.\d+", text))
    printed = RATIO.findall(text) if len(values) == 3 else alone
    return any(is_printed(values, numbers) for numbers in printed)


def study(folder="study"):
    """By what is compared with what, the ratio with its interval."""
    table = pd.read_csv(RESULTS / folder / "ratios.csv").set_index(["seconds_of", "over"])
    return estimates(table[["ratio", "ratio_low", "ratio_high"]])


def costs(name, *keys):
    """The same of a table that `rounds.Costs` wrote."""
    table = pd.read_csv(RESULTS / name / "cost.csv").set_index([*keys, "contestant"])
    return estimates(table[["median", "low", "high"]])


def estimates(table):
    return {key: tuple(row) for key, row in zip(table.index, table.to_numpy(), strict=True)}


def throughput():
    """Its tables, by name, each a list of rows by the keys of columns."""
    tables = report.tables(pd.read_csv(RESULTS / "throughput" / "rows.csv"))
    return {
        table.name: [
            dict(zip([column.key for column in table.columns], row, strict=True))
            for row in table.rows
        ]
        for table in tables
    }


def peers():
    """Of each peer that was timed, and task: the ratio with its interval; that of a study is by equal rules and by fewer."""
    table = pd.read_csv(RESULTS / "peers" / "peers.csv").dropna(subset="ratio")
    return estimates(
        table.set_index(["peer", "task", "rule"])[["ratio", "ratio_low", "ratio_high"]]
    )


def all_ratios():
    found = [*study().values(), *study("study/typical").values(), *peers().values()]
    found += costs("vanilla_cost", "n_texts").values()
    if (RESULTS / "cold").exists():
        found += costs("cold", "methods", "time").values()
    cells = [cell for rows in throughput().values() for row in rows for cell in row.values()]
    return found + [tuple(cell) for cell in cells if isinstance(cell, Estimate)]


def ranges():
    """Least and most over the cases, and over those of one length: our share of the bare loop, and tuned Captum's time."""
    rows = throughput()["throughput"]
    for label, key in (("ours", "share_of_bare_loop"), ("captum_sorted", "times_ours")):
        own = [row for row in rows if row["contestant"] == report.LABELS[label]]
        for chosen in (own, [row for row in own if row["section"] == "length"]):
            values = [row[key].mean for row in chosen]
            yield min(values), max(values)


@pytest.mark.parametrize("page", PARTS)
def test_every_ratio_and_range_on_a_page_is_one_of_the_files(page):
    text, ratios, allowed = part(page), all_ratios(), [*ranges()]
    strange = [one for one in RATIO.findall(text) if not any(is_printed(r, one) for r in ratios)]
    for low, high, percent in RANGE.findall(text):
        of_unit = [[100 * v for v in own] for own in allowed] if percent else allowed
        counts = not percent and "." not in low  # "from 8 to 256 at once"
        if not counts and not any(is_printed(own, (low, high)) for own in of_unit):
            strange.append((low, high))
    assert strange == []


@pytest.mark.parametrize("page", [FINDINGS, SHORT])
def test_both_studies_by_hand_and_both_usages_of_captum_are_on_the_page(page):
    rows = throughput()["throughput"]
    usages = [report.LABELS[name] for name in ("captum_sorted", "captum_random")]
    mixed = [row for row in rows if row["section"] == "contestants"]
    needed = [row["times_ours"] for row in mixed if row["contestant"] in usages]
    needed += [own for (of, _), own in study().items() if of == "careful"]
    needed.append(study("study/typical")["typical", "ours"])
    assert len(needed) == 5
    assert [own for own in needed if not stands(own, part(page))] == []


def test_what_is_saved_by_shared_work_is_on_the_page():
    found = throughput()
    needed = [row["times_ours"] for row in found["sweep"] if row["contestant"].startswith("Captum")]
    needed += [row["times_shared"] for row in found["evaluation"][1::2]]
    needed.append(found["accuracy"][1]["times_captum"])
    needed += [(row["ratio"],) for row in found["memory"][:2]]
    assert [own for own in needed if not stands(own, part(FINDINGS))] == []


def test_every_peer_is_on_the_page_and_who_is_faster_on_all_pages():
    for (peer, task, _), own in peers().items():
        pages = PARTS if own[2] < 1 else [FINDINGS] if task != "study" else []
        for page in pages:
            assert stands(own[:1], part(page)), (peer, task, page)


def test_vanilla_gradients_beside_a_loop_by_hand_are_on_the_page():
    names = (vanilla_cost.CAPTUM, vanilla_cost.ENGINE, vanilla_cost.PUBLIC)
    for (_, contestant), own in costs("vanilla_cost", "n_texts").items():
        assert contestant not in names or stands(own, part(FINDINGS))


def test_what_backward_rules_cost_is_on_their_page():
    table = pd.read_csv(RESULTS / "backward_cost" / "cost.csv")
    rules = table[table["rule"] != backward_cost.PLAIN]
    page = read("docs/backward_rules.md")
    for _, cells in rules.groupby(["model", "attention"]):
        numbers = cells[["median", "low", "high"]].to_numpy()
        assert " | ".join(f"{m:.2f} [{low:.2f}, {high:.2f}]" for m, low, high in numbers) in page


def test_what_the_engine_adds_to_a_decoder_is_on_its_page():
    for (_, contestant), own in costs("decoder_cost", "method").items():
        assert contestant == decoder_cost.BARE or stands(own, read("docs/tasks.md"))


def test_a_number_that_was_rounded_otherwise_is_seen():
    assert is_printed((1.1234, 1.06, 1.1524), ("1.12", "1.1", "1.152"))
    assert not is_printed((1.1234, 1.06, 1.1524), ("1.13", "1.06", "1.15"))
    assert stands((1.1,), "it takes 1.10 times") and not stands((1.1,), "it takes 11.10 times")


def measured(place):
    """Skips a law of what has not been measured yet."""
    return pytest.mark.skipif(
        not (RESULTS / place).exists(), reason=f"results/{place} is not measured yet"
    )


def scale(name):
    return json.loads((RESULTS / "scale" / name).read_text(encoding="utf-8"))


@measured("cold")
def test_what_a_cold_process_costs_is_on_the_page():
    """Ours over the script by hand: processor time, with what an earlier process kept and without; and the quickstart."""
    ours = {
        key: own
        for key, own in costs("cold", "methods", "time").items()
        if key[1] == "cpu" and key[2] != "by hand"
    }
    assert len(ours) == 4
    assert [key for key, own in ours.items() if not stands(own, part(FINDINGS))] == []
    clock = pd.read_csv(RESULTS / "cold" / "quickstart.csv")["clock"]
    assert f"{clock.median():.0f} s" in part(FINDINGS)


@measured("scale/growth.json")  # the executors are measured with it
def test_what_two_workers_and_ray_save_is_on_the_page():
    page, found = read("docs/scaling.md"), scale("executors.json")["summary"]
    assert len(found) == 3
    missing = [
        row["pair"] for row in found if not stands((row["median"], row["low"], row["high"]), page)
    ]
    assert missing == []


@measured("scale/growth.json")
def test_growth_with_the_number_of_texts_is_on_the_page():
    """A row of a table for each study: texts, ms a text, GiB and files of the study, seconds and GiB of its report."""
    page = read("docs/scaling.md")
    for one in scale("growth.json")["studies"]:
        study, made = one["study"], one["report"]
        (row,) = re.findall(rf"^\| {one['n_examples']:,} \|(.*)\|$", page, re.MULTILINE)
        cells = [cell.strip() for cell in row.split("|")]
        values = (
            one["ms_per_text"],
            study["peak_gib"],
            one["files"],
            made["seconds"],
            made["peak_gib"],
        )
        assert is_printed(values, cells), one["n_examples"]
