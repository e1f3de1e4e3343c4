"""What a cold process costs: two that disagree are not timed, and the first time is a first time."""

import json
import sys

import pandas as pd
import pytest

from benchmarks import cold, rounds
from benchmarks.cold import FIRST, HAND, OURS, Contestant, Cost, spent
from saliency_bench.store.cache import VARIABLE


def says(printed):
    """A process that prints this, whatever it is asked."""
    return Contestant([sys.executable, "-c", f"print({printed!r})"], {})


def explained(shares):
    """What `explain --json=allennlp` prints of two methods."""
    kinds = {"vanilla": [0.5, 0.5], cold.IG: shares}
    found = {name: {"method": name, "grad_input_1": own} for name, own in kinds.items()}
    return says(json.dumps(found))


def test_two_that_disagree_are_not_timed():
    hand = says("a line\n[3.0, -1.0]")
    cold.require_equal(explained([0.75, 0.25]), hand)
    for shares in ([0.749, 0.251], [0.25, 0.75], [float("nan"), 0.25]):
        with pytest.raises(SystemExit, match="disagree"):
            cold.require_equal(explained(shares), hand)


def test_the_first_time_finds_an_empty_cache_and_puts_the_old_one_back(tmp_path):
    cache = tmp_path / "cache"
    (cache / "old").mkdir(parents=True)
    (cache / "old" / "kept").write_text("by an earlier process")
    looks = "import os; open('seen', 'a').write(f'{os.path.exists(\"cache/old\")} '); os.makedirs('cache/new')"
    own = cold.environment(cache)
    spent(Contestant([sys.executable, "-c", looks], own, is_first=True), cache)
    with pytest.raises(SystemExit):  # nor does one that fails take it away
        spent(Contestant([sys.executable, "-c", f"{looks}; exit(1)"], own, is_first=True), cache)
    assert [path.name for path in cache.iterdir()] == ["old"]
    assert (cache / "old" / "kept").read_text() == "by an earlier process"
    spent(Contestant([sys.executable, "-c", looks], own), cache)
    assert (tmp_path / "seen").read_text() == "False False True "


def test_a_process_has_the_cache_it_is_given_and_only_contestants_have_one_thread(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    plain = cold.environment(tmp_path / "cache")
    assert "OMP_NUM_THREADS" not in plain
    assert plain[VARIABLE].startswith(plain["XDG_CACHE_HOME"])
    found = cold.contestants(tmp_path, ["vanilla"])
    assert {one.environment["OMP_NUM_THREADS"] for one in found.values()} == {"1"}
    assert [name for name, one in found.items() if one.is_first] == [FIRST]


def test_processor_time_is_that_of_the_process_and_of_those_it_waited_for(tmp_path):
    works = "import time\nwhile time.process_time() < 0.3: pass"
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {works!r}])"
    waits = Contestant([sys.executable, "-c", inner], {})
    sleeps = Contestant([sys.executable, "-c", "import time; time.sleep(0.3)"], {})
    assert spent(waits, tmp_path / "cache").cpu >= 0.3
    cost = spent(sleeps, tmp_path / "cache")
    assert cost.cpu < 0.3 <= cost.clock


def test_every_contestant_is_held_against_the_script_by_hand_of_its_own_round(
    tmp_path, monkeypatch
):
    order = []

    def fake(contestant, cache):
        name = next(
            name for name, one in cold.contestants(tmp_path, [cold.IG]).items() if one == contestant
        )
        order.append(name)
        return Cost(cpu=len(order), clock=2.0 ** len(order))

    monkeypatch.setattr(cold, "spent", fake)
    monkeypatch.setattr(cold, "require_equal", lambda ours, hand: None)
    tables = cold.compare(tmp_path, [cold.IG], 2)
    assert order == [HAND, OURS, FIRST, OURS, FIRST, HAND]
    assert list(tables["cpu"][OURS]) == [2 / 1, 4 / 6]
    assert list(tables["clock"][FIRST]) == [4, 1 / 2]


def test_all_is_written_to_the_folder(tmp_path, monkeypatch, default_model):
    table = pd.DataFrame({HAND: [1.0, 1.0], OURS: [1.0, 3.0]})
    monkeypatch.setattr(sys, "argv", ["cold", str(tmp_path)])
    monkeypatch.setattr(cold, "load_default", lambda device: default_model)
    monkeypatch.setattr(cold, "compare", lambda *_: {"cpu": table, "clock": table})
    monkeypatch.setattr(cold, "quickstart", lambda: {"cpu": 60.0, "clock": 50.0, "threads": 2})
    cold.main(n_quickstarts=2)
    cost = pd.read_csv(tmp_path / "cost.csv")
    assert len(cost) == len(cold.METHODS) * 2 * 2
    ours = cost[cost.contestant == OURS][["median", "low", "high", "n"]]
    assert ours.drop_duplicates().values.tolist() == [[2, 1, 3, 2]]
    assert pd.read_csv(tmp_path / "quickstart.csv").clock.tolist() == [50, 50]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["identity"]["computation"]["threads"] == 1


def test_the_quickstart_is_the_default_study_from_an_empty_cache_in_a_fresh_folder(monkeypatch):
    asked = []

    def fake(contestant, cache):
        asked.append((contestant.command[1:], contestant.environment["HOME"], cache.exists()))
        assert contestant.environment["XDG_CACHE_HOME"] == str(cache)
        run = cache.parent / "results" / "runs" / "study"
        run.mkdir(parents=True)
        written = {"identity": {"computation": {"threads": 2}}}
        (run / "manifest.json").write_text(json.dumps(written))
        return Cost(cpu=90.0, clock=60.0)

    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(cold, "spent", fake)
    assert cold.quickstart() == cold.quickstart() == {"cpu": 90, "clock": 60, "threads": 2}
    assert asked == [(["-m", "saliency_bench"], "/home/me", False)] * 2


def test_of_fewer_than_six_rounds_the_interval_is_their_range():
    found = rounds.summary(pd.DataFrame({"a": [3.0, 1.0, 2.0]})).iloc[0]
    assert (found["median"], found["low"], found["high"]) == (2, 1, 3)
