"""Whoever computes the blocks, and in whatever order: the same bytes, and nothing is put together before it is there."""

import ctypes
import json
import os
import random
import shlex
import shutil
import subprocess
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from saliency_bench.cli import config
from saliency_bench.cli import main as cli
from saliency_bench.cli import worker as worker_module
from saliency_bench.core.errors import InputError, SaliencyBenchError, StorageError
from saliency_bench.store.events import EVENTS
from saliency_bench.store.lock import locked
from saliency_bench.store.run import read_run
from saliency_bench.studies import block as blocks_module
from saliency_bench.studies import block_tables as study_tables
from saliency_bench.studies import driver
from saliency_bench.studies import executors as scale
from saliency_bench.studies import run as runner

#: Of tests in which nobody is started.
CREW = scale.Crew(worker_module.Worker, 1)

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A file of ten short texts."""
    stream = random.Random(0)
    lines = [" ".join(f"w{stream.randrange(40)}" for _ in range(n)) for n in range(2, 12)]
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    path.write_text("text\n" + "\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture
def study_in(folder, texts, tmp_path):
    """A configuration of a small study on a tiny model, to go to a folder."""
    return maker(folder, texts, tmp_path)


def maker(folder, texts, place):
    """Makes configurations of studies that go to folders of a place."""

    def make(name, *more):
        words = ["~experiment", "model=hub", f"model.path={folder}", "data=file", "data.text=text"]
        words += [f"data.path={texts}", "runtime.device=cpu", "name=t"]
        words += ["method=[smoothgrad,vanilla]", "metric=[srg]", "convergence.n_examples=0"]
        words += ["statistics.n_resamples=100", *more]
        words += [] if any(word.startswith("runtime=") for word in more) else ["runtime.threads=1"]
        (place / "words.json").write_text(json.dumps(words), "utf-8")
        cfg = config.load(words)
        config.validate(cfg)
        return replace(cfg, out=str(place / name))

    return make


def run(cfg, execute=None, progress=lambda *_: None):
    return runner.run(cfg, config.settings(cfg), ["saliency-bench"], progress, None, execute)


def stopped(cfg):
    """The folder of a run of which no block is finished."""

    def never(folder, pieces, tell):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="saliency-bench resume"):
        run(cfg, never)
    return scale.Path(cfg.out)


def tables(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def whole(folder, texts, tmp_path_factory):
    """The tables of that study, run here from its beginning to its end."""
    return tables(run(maker(folder, texts, tmp_path_factory.mktemp("whole"))("whole")))


@pytest.mark.parametrize("n_shards", [1, 2, 3, 5, 8])
def test_any_number_of_workers_in_any_order_gives_the_same_bytes(study_in, whole, n_shards):
    folder = stopped(study_in(f"shards{n_shards}"))
    pieces = [block.name for block in study_tables.plan_blocks(scale_encoded(folder))]
    random.Random(n_shards).shuffle(pieces)
    scale.write_json(folder / scale.PIECES, pieces)
    order = list(range(n_shards))
    random.Random(n_shards + 1).shuffle(order)
    for shard in order:
        worker_module.work(folder, shard, n_shards)
    assert cli.main(["merge", str(folder)]) == 0
    assert tables(folder) == whole


def scale_encoded(folder):
    cfg = worker_module.read_config(folder)
    return runner.prepare(cfg, config.settings(cfg)).encoded


def test_a_worker_that_helps_leaves_nothing(study_in, whole, monkeypatch):
    folder = stopped(study_in("run"))
    pieces = [block.name for block in study_tables.plan_blocks(scale_encoded(folder))]
    scale.write_json(folder / scale.PIECES, pieces)
    worker_module.work(folder, 0, 3)  # that one has no need of help
    done, opened = [], worker_module.open_worker(folder)

    def worker(name):
        done.append(name)
        return opened.work(name)

    monkeypatch.setattr(worker_module, "open_worker", lambda _: worker)
    worker_module.work(folder, 1, 3, helps=True)
    mine = pieces[1::3]
    assert done[: len(mine)] == mine
    of_others = pieces[2::3]  # those of the first are done
    assert sorted(done[len(mine) :]) == sorted(of_others)
    worker_module.work(folder, 2, 3, helps=True)  # nothing is left: no model is loaded for it
    assert len(done) == len(mine) + len(of_others)
    assert cli.main(["merge", str(folder)]) == 0
    assert tables(folder) == whole


def test_two_that_help_do_not_begin_at_the_same_block(study_in, monkeypatch):
    folder = stopped(study_in("run"))
    pieces = [f"{n:02d}" for n in range(12)]
    scale.write_json(folder / scale.PIECES, pieces)
    firsts = set()
    for shard in range(4):
        done = []
        monkeypatch.setattr(worker_module, "open_worker", lambda _, done=done: done.append)
        worker_module.work(folder, shard, 4, helps=True)
        assert sorted(done) == pieces
        assert done[:3] == pieces[shard::4]
        firsts.add(done[3])
    assert len(firsts) == 4


def test_a_worker_whose_own_blocks_are_done_helps_all_the_same_from_the_last_on(
    study_in, monkeypatch
):
    folder, done = stopped(study_in("run")), []
    scale.write_json(folder / scale.PIECES, ["a", "b", "c", "d"])
    for name in ("a", "c"):
        (folder / "parts" / name).mkdir(parents=True)
    monkeypatch.setattr(worker_module, "open_worker", lambda _: done.append)
    worker_module.work(folder, 0, 2, helps=True)
    assert done == ["d", "b"]


def test_nothing_is_merged_before_everything_is_there(study_in, capsys):
    folder = stopped(study_in("run"))
    pieces = [block.name for block in study_tables.plan_blocks(scale_encoded(folder))]
    scale.write_json(folder / scale.PIECES, pieces)
    worker_module.work(folder, 0, 2)
    assert cli.main(["merge", str(folder)]) == 4
    err = capsys.readouterr().err
    assert f"lacks {len(pieces) // 2} blocks" in err
    assert "saliency-bench resume" in err
    assert cli.main(["resume", str(folder)]) == 0


def test_a_finished_run_is_left_as_it_is(study_in, tmp_path, capsys):
    folder = run(study_in("run"))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.*")}
    assert cli.main(["resume", str(folder)]) == 0
    run(study_in("run"))
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
    assert not (folder / "config.json").exists()


def test_what_changes_no_number_may_change_after_the_run(study_in):
    folder = run(study_in("run"))
    again = study_in("run", "statistics.confidence=0.9")
    before = read_run(folder)
    run(again)
    after = read_run(folder)
    assert after.manifest["config"]["statistics"]["confidence"] == 0.9
    assert after.manifest["circumstances"] == before.manifest["circumstances"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed", 1, "seed (0 → 1)"),
        ("n_examples", 3, "config.n_examples (30 → 3)"),
        ("output", "probability", "config.output (logit → probability)"),
        ("target", 1, "target"),
        ("nonsense", 1, "nonsense"),
        ("model", {"name": "pickle"}, "model.name"),
        ("name", "${oc.env:HOME}", "${...}"),
        ("data", {"dataset": "os.system"}, "data"),
        ("method", {"vanilla": {"_target_": "os.system"}}, "_target_"),
    ],
)
def test_a_configuration_that_was_changed_is_refused_by_its_field(
    study_in, capsys, key, value, said
):
    folder = stopped(study_in("run"))
    path = folder / "config.json"
    held = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(held | {key: value}), "utf-8")
    capsys.readouterr()
    assert cli.main(["resume", str(folder)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_configuration_is_a_storage_error(study_in, capsys, content):
    folder = stopped(study_in("run"))
    (folder / "config.json").write_bytes(content)
    capsys.readouterr()
    assert cli.main(["resume", str(folder)]) == 4
    assert "config.json" in capsys.readouterr().err


def test_other_weights_are_refused_when_a_run_goes_on(study_in, folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "model")
    cfg = study_in("run")
    cfg = replace(cfg, model=replace(cfg.model, path=str(tmp_path / "model")))
    run_folder = stopped(cfg)
    import torch
    from tiny import tiny_bert

    tiny_bert(torch.float32, seed=5).save_pretrained(tmp_path / "model")
    assert cli.main(["resume", str(run_folder)]) == 2
    assert "model." in capsys.readouterr().err


def test_events_say_what_happened(study_in):
    cfg = study_in("run")
    folder = stopped(cfg)
    run(cfg)
    lines = [json.loads(line) for line in (folder / EVENTS).read_text("utf-8").splitlines()]
    named = [line["event"] for line in lines]
    assert named[0] == "start"
    assert "interrupted" in named
    assert named[-1] == "done"
    last = [line for line in lines if line["event"] == "progress"][-1]
    assert last["done"] == last["total"] == 10
    assert all(line["time"].endswith("+00:00") for line in lines)


def test_rows_are_held_against_the_plan_before_anything_is_put_together(study_in, monkeypatch):
    judge = study_tables.evaluate_block

    def forgetful(*arguments):
        found = judge(*arguments)
        return replace(found, rows=found.rows[:-1])

    monkeypatch.setattr(study_tables, "evaluate_block", forgetful)
    cfg = study_in("run")
    with pytest.raises(StorageError, match=r"table 'rows' lacks 1 row,.*resume"):
        run(cfg)
    assert not list(scale.Path(cfg.out).glob("*.parquet"))


def other_weights(folder, place):
    """A model folder that differs in its weights alone."""
    import torch
    from tiny import tiny_bert

    shutil.copytree(folder, place)
    tiny_bert(torch.float32, seed=5).save_pretrained(place)
    return place


def test_a_part_of_another_run_is_not_merged_but_set_aside_and_computed_again(
    study_in, whole, folder, tmp_path, capsys
):
    """Equal texts and settings: by other weights, and by the same weights where words are removed, not tokens."""
    cfg = study_in("run")
    weights = replace(cfg.model, path=str(other_weights(folder, tmp_path / "model")))
    others = [
        replace(study_in("weights"), model=weights),
        study_in("words", "evaluation.granularity=word"),
    ]
    run_folder = stopped(cfg)
    pieces = [block.name for block in study_tables.plan_blocks(scale_encoded(run_folder))]
    for other, name in zip(others, pieces, strict=False):
        worker_module.work(stopped(other), 0, 1)
        shutil.copytree(scale.Path(other.out) / "parts" / name, run_folder / "parts" / name)
    worker_module.work(run_folder, 0, 1)
    capsys.readouterr()
    assert cli.main(["merge", str(run_folder)]) == 4
    err = capsys.readouterr().err
    assert f"Block {pieces[0]} is damaged (a part of another run" in err
    assert "lacks 2 blocks" in err
    assert not list(run_folder.glob("*.parquet"))
    assert cli.main(["resume", str(run_folder)]) == 0
    assert tables(run_folder) == whole


def test_a_part_that_only_says_it_is_of_this_run_is_not_merged(study_in, folder, tmp_path):
    cfg = study_in("run")
    weights = replace(cfg.model, path=str(other_weights(folder, tmp_path / "model")))
    other = replace(study_in("other"), model=weights)
    run_folder = stopped(cfg)
    worker_module.work(run_folder, 0, 1)
    worker_module.work(stopped(other), 0, 1)
    name = next(path.name for path in (run_folder / "parts").glob("[!.]*"))
    record = json.loads((run_folder / "parts" / name / "digests.json").read_text("utf-8"))
    shutil.rmtree(run_folder / "parts" / name)
    shutil.copytree(scale.Path(other.out) / "parts" / name, run_folder / "parts" / name)
    path = run_folder / "parts" / name / "digests.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run": record["run"]}), "utf-8")
    with pytest.raises(StorageError, match=r"is of another run: its cell .*resume"):
        run(cfg)
    assert not list(run_folder.glob("*.parquet"))


@pytest.mark.parametrize(
    ("nth", "verb"), [(0, "resume"), (1, "merge"), (4, "same"), (7, "resume"), (43, "merge")]
)
def test_a_run_killed_while_its_parts_are_removed_goes_on(study_in, whole, nth, verb, monkeypatch):
    """Ten parts of some five files are removed; the process dies instead of the removal of this number."""
    cfg, seen = study_in("run"), []
    folder = scale.Path(cfg.out)

    def dying(real, *args, **kwargs):
        if (folder / "digests.json").is_file():
            seen.append(args)
            if len(seen) == nth + 1:
                raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, partial(dying, getattr(os, name)))
        with pytest.raises(KeyboardInterrupt):
            run(cfg)
    assert (folder / "parts").is_dir() and not (folder / "manifest.json").exists()
    if verb == "same":
        run(cfg)
    else:
        assert cli.main([verb, str(folder)]) == 0
    assert tables(folder) == whole
    assert not (folder / "parts").exists()


def test_a_run_goes_on_by_another_number_of_workers(study_in, whole, monkeypatch, capsys):
    folder, started = stopped(study_in("run", "runtime=processes")), []

    class Worker:
        returncode = 0

        def __init__(self, folder, shard, n):
            started.append(n)
            worker_module.work(folder, shard, n)

        def poll(self):
            return 0

    monkeypatch.setattr(scale, "_start", Worker)
    monkeypatch.setattr(scale, "_stop", lambda running: None)
    for typed in ("0", "-1", "two", "1.5", ""):
        assert cli.main(["resume", str(folder), f"runtime.executor.workers={typed}"]) == 2
        assert "runtime.executor.workers=" in capsys.readouterr().err
    assert started == []
    assert cli.main(["resume", str(folder), "runtime.executor.workers=3"]) == 0
    assert started == [3, 3, 3]
    assert tables(folder) == whole


def test_a_run_without_workers_takes_no_number_of_them(study_in, capsys):
    folder = stopped(study_in("run"))
    assert cli.main(["resume", str(folder), "runtime.executor.workers=2"]) == 2
    assert "the run is computed by here. Remove it." in capsys.readouterr().err


def test_blocks_that_are_committed_together_give_the_same_bytes(study_in, whole, monkeypatch):
    monkeypatch.setattr(
        study_tables, "plan_pieces", lambda blocks: blocks_module.plan_pieces(blocks, most=3)
    )
    cfg = study_in("pieces")
    folder = stopped(cfg)
    study = runner.prepare(cfg, config.settings(cfg))
    pieces = study_tables.pieces_of(study)
    assert [len(piece.blocks) for piece in pieces] == [4, 4, 2]
    assert tables(run(cfg)) == whole
    assert set(json.loads((folder / "digests.json").read_text())["blocks"]) == {
        piece.name for piece in pieces
    }


@pytest.mark.parametrize(
    "name", ["config.json", "report.html", "parts/important/thesis.txt", "tables/mine.csv", ".env"]
)
def test_a_folder_with_other_files_is_refused_and_left_as_it_is(study_in, tmp_path, name):
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine", "utf-8")
    with pytest.raises(InputError, match=r"mine holds other files.*out="):
        run(study_in("mine"))
    left = [path for path in (tmp_path / "mine").rglob("*") if path.is_file()]
    assert left == [file]
    assert file.read_text("utf-8") == "mine"


def test_what_is_not_in_the_plan_is_neither_set_aside_nor_removed(study_in):
    folder = stopped(study_in("run"))
    thesis = folder / "parts" / "important" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("mine", "utf-8")
    with pytest.raises(StorageError, match=r"not in the plan \(important\)"):
        run(study_in("run"))
    assert thesis.read_text("utf-8") == "mine"
    hidden = folder / "parts" / ".mine"
    thesis.parent.rename(hidden)
    run(study_in("run"))
    assert (hidden / "thesis.txt").read_text("utf-8") == "mine"


def test_a_kill_before_the_folder_is_claimed_leaves_a_folder_that_can_be_claimed(
    study_in, tmp_path
):
    (tmp_path / "run" / "choice").mkdir(parents=True)
    (tmp_path / "run" / ".identity.json-0123abcd").write_text("{", "utf-8")
    run(study_in("run"))


@pytest.mark.parametrize(
    "name", ["parts", "parts/b", "events.jsonl", "tables", "figures", "workers", "settings.json"]
)
def test_a_link_out_of_a_run_folder_is_refused(study_in, tmp_path, name, capsys):
    folder = stopped(study_in("run"))
    outside = tmp_path / "outside"
    outside.mkdir()
    link = folder / name
    link.parent.mkdir(exist_ok=True)
    if link.is_file():
        link.unlink()
    elif link.is_dir():
        shutil.rmtree(link)
    link.symlink_to(outside / "file.txt" if "." in name else outside)
    capsys.readouterr()
    assert cli.main(["resume", str(folder)]) == 4
    assert f"{link} is a symbolic link" in capsys.readouterr().err
    assert not list(outside.iterdir())


@pytest.mark.parametrize(("name", "code"), [("config.json", 4), ("identity.json", 2)])
def test_only_a_folder_that_was_claimed_goes_on(study_in, capsys, name, code):
    folder = stopped(study_in("run"))
    (folder / name).unlink()
    capsys.readouterr()
    assert cli.main(["resume", str(folder)]) == code
    assert name in capsys.readouterr().err


def test_an_address_is_dialled_only_if_it_was_typed(study_in, monkeypatch, capsys):
    folder = stopped(study_in("run", "runtime=ray"))
    path = folder / "config.json"
    held = json.loads(path.read_text("utf-8"))
    held["runtime"]["executor"]["address"] = "ray://192.0.2.1:1"
    path.write_text(json.dumps(held), "utf-8")
    asked = []
    monkeypatch.setattr(scale, "executor", lambda options, crew: asked.append(options))
    capsys.readouterr()
    assert cli.main(["resume", str(folder)]) == 2
    assert f"resume {folder} runtime.executor.address=ray://192.0.2.1:1" in capsys.readouterr().err
    assert asked == []
    options = held["runtime"]["executor"]
    assert worker_module.typed_address(options, "other:2", folder)["address"] == "other:2"
    assert worker_module.typed_address(options, "null", folder)["address"] is None
    with pytest.raises(InputError, match="computed by here"):
        worker_module.typed_address({"name": "here"}, "other:2", folder)


def test_what_a_folder_says_reaches_no_terminal_raw_nor_at_length(study_in, capsys):
    folder = stopped(study_in("run"))
    path = folder / "identity.json"
    held = json.loads(path.read_text("utf-8"))
    held["seed"] = "\x1b]0;title\x07\n" + "x" * 5000
    held |= {f"\x1b[2J{index}" + "k" * 500: index for index in range(50)}
    path.write_text(json.dumps(held), "utf-8")
    capsys.readouterr()
    assert cli.main(["resume", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err and "\x07" not in err
    assert err.count("\n") == 1
    assert len(err) < 2000


def test_a_block_that_somebody_has_committed_is_done(study_in, whole, monkeypatch):
    cfg = study_in("run")
    folder = stopped(cfg)
    study = runner.prepare(cfg, config.settings(cfg))
    refs, store = runner.References(study.model), worker_module.PartStore(folder, run=study.id)
    name = study_tables.pieces_of(study)[0].name
    with study.model.frozen():
        plan = study_tables.pieces_of(study)
        runner.compute_piece(study, refs, store, name, plan)
        has, asked = worker_module.PartStore.has, []

        def has_later(self, block):  # an orphan was quicker
            asked.append(block)
            return len(asked) > 2 and has(self, block)

        monkeypatch.setattr(worker_module.PartStore, "has", has_later)
        runner.compute_piece(study, refs, store, name, plan)
        assert len(asked) == 3
        monkeypatch.undo()
        monkeypatch.setattr(runner, "block_tables", None)  # not asked again
        runner.compute_piece(study, refs, store, name, plan)
        monkeypatch.undo()
    assert tables(run(cfg)) == whole


def test_a_worker_ends_with_the_process_that_waits_for_it(monkeypatch, tmp_path):
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: None)  # where the system has no such call
    monkeypatch.setenv(scale.DRIVER, str(scale.os.getppid()))
    driver.end_with_driver()
    monkeypatch.setenv(scale.DRIVER, "1000000000")
    with pytest.raises(SaliencyBenchError, match="has ended"):
        worker_module.work(tmp_path, 0, 1)


def test_a_list_of_blocks_that_is_none_is_a_storage_error(study_in, capsys):
    folder = stopped(study_in("run"))
    scale.write_json(folder / scale.PIECES, ["x", 5, {}])
    capsys.readouterr()
    assert cli.main(["work", str(folder), "shard=0/1"]) == 4
    assert ".pieces.json: expected names of blocks" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["seed=-1", f"seed={2**63}", "runtime.threads=100000"])
def test_numbers_that_no_machine_takes_are_refused_before_the_folder_is_claimed(study_in, word):
    with pytest.raises(InputError, match=word):
        study_in("run", "runtime=here", word)


def _numbers(value, key=""):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


#: Numbers that change no row, or are the machine's, or are read with n_samples=auto alone.
_FREE = (
    *("report.", "statistics.", "runtime.threads", "runtime.executor."),
    *("method.smoothgrad.relative_error", "method.smoothgrad.max_samples"),
)


def test_every_number_that_is_changed_is_named(study_in):
    from saliency_bench.studies.folder import refuse_another

    more = ["method=[smoothgrad,integrated_gradients]", "timing.enabled=true"]
    folder = stopped(study_in("run", *more))
    plain = json.loads((folder / "config.json").read_text("utf-8"))
    named = [one for one in _numbers(plain) if not one[0].startswith(_FREE)]
    assert {"seed", "method.smoothgrad.n_samples", "convergence.n_examples"} <= {*dict(named)}
    for key, value in named:
        changed = json.loads(json.dumps(plain))
        *groups, last = key.split(".")
        place = changed
        for group in groups:
            place = place[group]
        place[last] = 2 * value or 1 if isinstance(value, int) else value / 2
        cfg = config.from_plain(changed)
        study = runner.prepare(cfg, config.settings(cfg))
        with pytest.raises(InputError) as caught:
            refuse_another(study, folder)
        assert f"{key} ({value} → {place[last]})" in str(caught.value).replace("config.", "")


def events(folder, kind):
    lines = (folder / EVENTS).read_text("utf-8").splitlines()
    return [one for one in map(json.loads, lines) if one["event"] == kind]


def test_a_run_whose_manifest_is_gone_says_what_finishes_it(study_in, whole, capsys):
    folder = run(study_in("run"))
    (folder / "manifest.json").unlink()
    for verb in ("report", "resume", "merge"):
        assert cli.main([verb, str(folder)]) == 4
        assert f"with out={folder}" in capsys.readouterr().err
    run(study_in("run"))
    assert cli.main(["report", str(folder)]) == 0
    assert tables(folder) == whole


def test_damage_is_said_logged_counted_and_kept(study_in, whole):
    folder = stopped(study_in("run"))
    pieces = [block.name for block in study_tables.plan_blocks(scale_encoded(folder))]
    scale.write_json(folder / scale.PIECES, pieces)
    worker_module.work(folder, 0, 5)
    (folder / "parts" / pieces[0] / "rows.parquet").write_bytes(b"PAR1")
    cfg, said = study_in("run"), []
    runner.run(cfg, config.settings(cfg), ["saliency-bench"], announce=said.append)
    assert any(f"{pieces[0]} is damaged" in one and ".set_aside" in one for one in said)
    (event,) = events(folder, "set_aside")
    assert event["name"] == pieces[0] and "truncated or altered" in event["reason"]
    (aside,) = (folder / "parts" / ".set_aside").iterdir()
    assert (aside / "reason.txt").is_file()
    assert [path.name for path in (folder / "parts").iterdir()] == [".set_aside"]
    assert read_run(folder).manifest["circumstances"]["set_aside"] == 1
    assert tables(folder) == whole


def test_every_block_is_an_event_whoever_finished_it(study_in):
    folder = run(study_in("here"))
    blocks = events(folder, "block")
    assert len(blocks) == 10
    assert sum(one["rows"] for one in blocks) == len(read_run(folder).tables["rows"])

    def elsewhere(folder, pieces, tell):
        scale.write_json(folder / scale.PIECES, list(pieces))
        worker_module.work(folder, 0, 1)
        tell(len(pieces))

    other = run(study_in("elsewhere"), elsewhere)
    assert [(one["name"], one["rows"]) for one in events(other, "block")] == [
        (one["name"], one["rows"]) for one in blocks
    ]


def test_a_warning_of_a_block_is_an_event(study_in, monkeypatch):
    from saliency_bench.attribution import baselines

    monkeypatch.setattr(baselines, "LITTLE", 1.1)  # more than there can be
    words = ["method=[input_baseline_x_gradient]", "metric=[]", "n_examples=2"]
    cfg = study_in("run", *words, "method.input_baseline_x_gradient.baseline=max_entropy")
    with pytest.warns(UserWarning, match="entropy"):
        folder = run(cfg)
    found = {(one["example_id"], one["message"]) for one in events(folder, "warning")}
    rows = read_run(folder).tables["warnings"]
    assert len(rows) == 2
    assert found == {*zip(rows.example_id, rows.message, strict=True)}


def test_a_log_that_cannot_be_written_hides_no_error(study_in, monkeypatch):
    def full(self, event, **facts):
        raise StorageError("the disk is full")

    def failing(*_):
        monkeypatch.setattr(runner.EventLog, "__call__", full)
        raise ZeroDivisionError("the real one")

    with pytest.raises(ZeroDivisionError, match="the real one"):
        run(study_in("run"), failing)


def test_two_runs_are_compared_in_whole_however_narrow_the_terminal(study_in, capsys, monkeypatch):
    a, b = run(study_in("a")), run(study_in("b", "seed=1"))
    for columns in ("80", "500"):
        monkeypatch.setenv("COLUMNS", columns)
        assert cli.main(["compare", str(a), str(b)]) == 0
        out = capsys.readouterr().out
        assert "Second" in out  # and "run", where there is no room for both
        assert "…" not in out


def test_multirun_overwrites_no_study(study_in, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = run(study_in("run"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = ["-m", "seed=0,1", f"out={folder}"]
    words += json.loads((tmp_path / "words.json").read_text("utf-8"))
    assert cli.main(words) == 2
    assert "seed (0 → 1)" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_a_folder_that_another_process_works_on_is_left_to_it(study_in):
    cfg = study_in("run")
    with locked(scale.Path(cfg.out)), pytest.raises(StorageError, match="another process"):
        run(cfg)
    run(cfg)


def test_a_worker_that_fails_is_heard(study_in, monkeypatch):
    monkeypatch.setattr(
        scale,
        "_command",
        lambda *_: [scale.sys.executable, "-c", "raise SystemExit('saliency-bench: no luck')"],
    )
    cfg = study_in("run", "runtime=processes")
    with pytest.raises(SaliencyBenchError, match=r"10 of 10 blocks not finished.*no luck.*resume"):
        run(cfg, scale.executor(cfg.runtime.executor, worker_module.crew_of(cfg)))


def ending(monkeypatch, script):
    """Workers of this machine run a script of the shell, {work} in which is what they would have done."""

    def command(folder, shard, n, real=scale._command):
        return ["sh", "-c", script.replace("{work}", shlex.join(real(folder, shard, n)))]

    monkeypatch.setattr(scale, "_command", command)


CODES = [
    (4, StorageError, "storage"),
    (5, MemoryError, "out of memory"),
    (2, InputError, "input"),
    (1, SaliencyBenchError, "failed"),
]


@pytest.mark.filterwarnings(  # submitit leaves its log files to the collector
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("name", ["processes", "slurm"])
@pytest.mark.parametrize(("code", "kind", "named"), CODES)
@pytest.mark.parametrize("spoken", [True, False])
def test_a_worker_ends_the_study_with_its_own_exit_code(
    tmp_path, monkeypatch, name, code, kind, named, spoken
):
    ending(monkeypatch, f"{'echo saliency-bench: no luck. >&2;' if spoken else ''} exit {code}")
    folder = tmp_path / "run"
    folder.mkdir()
    options = {"workers": 2}
    if name == "slurm":
        options |= {"cluster": "debug", "timeout_minutes": 1, "memory_gb": 1}
        options |= {"gpus_per_worker": 0, "partition": None}
        pytest.importorskip("submitit", reason="the extra slurm is not installed")
    said = "a worker said: no luck" if spoken else f"exit code {code} \\({named}\\)"
    with pytest.raises(kind, match=f"2 of 2 blocks not finished: .*{said}.*resume") as caught:
        scale.executor(options | {"name": name}, CREW)(folder, ["a", "b"], lambda done: None)
    assert type(caught.value) is kind


def test_how_a_worker_ended_is_heard_where_no_log_can_be_written(tmp_path, monkeypatch):
    ending(monkeypatch, "echo lost; exit 4")
    (tmp_path / scale.LOGS).write_text("a file where logs would go")
    execute = scale.executor({"name": "processes", "workers": 1}, CREW)
    with pytest.raises(StorageError, match=r"exit code 4 \(storage\)"):
        execute(tmp_path, ["a"], lambda done: None)


def test_workers_that_are_killed_again_and_again_are_said_to_be(tmp_path, monkeypatch):
    ending(monkeypatch, "kill -9 $$")
    execute = scale.executor({"name": "processes", "workers": 1}, CREW)
    with pytest.raises(SaliencyBenchError, match=r"workers were killed 3 times.*signal \[9\]"):
        execute(tmp_path, ["a"], lambda done: None)


@pytest.mark.slow
def test_a_disk_that_refuses_a_worker_is_a_matter_of_storage(study_in, monkeypatch):
    ending(monkeypatch, "ulimit -f 1; exec {work}")  # no file may be larger than 512 or 1024 bytes
    cfg = study_in("run", "runtime=processes")
    with pytest.raises(StorageError, match=r"a worker said: .*parts.*File too large.*resume"):
        run(cfg, scale.executor(cfg.runtime.executor, worker_module.crew_of(cfg)))


@pytest.mark.parametrize("n_shards", [1, 3])
def test_workers_started_by_hand_plan_for_themselves(study_in, whole, n_shards):
    folder = stopped(study_in("run"))
    assert not (folder / scale.PIECES).exists()
    for shard in range(n_shards):
        assert cli.main(["work", str(folder), f"shard={shard}/{n_shards}"]) == 0
    assert cli.main(["merge", str(folder)]) == 0
    assert tables(folder) == whole


def test_a_worker_plans_once(study_in, monkeypatch):
    folder = stopped(study_in("run"))
    planned, plan = [], study_tables.plan_pieces
    monkeypatch.setattr(
        study_tables, "plan_pieces", lambda blocks: planned.append(blocks) or plan(blocks)
    )
    worker = worker_module.open_worker(folder)
    for name in worker.plan:
        worker(name)
    assert len(planned) == 1


def test_what_is_left_is_looked_up_in_one_question(tmp_path, monkeypatch):
    names = [f"{i:05d}" for i in range(100)]
    assert scale.blocks_left(tmp_path, names) == names
    for name in names[::2]:
        (tmp_path / "parts" / name).mkdir(parents=True)
    scan, asked = scale.os.scandir, []
    monkeypatch.setattr(scale.os, "scandir", lambda path: asked.append(path) or scan(path))
    monkeypatch.setattr(scale.Path, "exists", None)
    assert scale.blocks_left(tmp_path, names) == names[1::2]
    assert len(asked) == 1


def test_the_warnings_of_a_text_are_looked_up_without_reading_all(study_in):
    class Counted(tuple):
        read = 0

        def __iter__(self):
            Counted.read += 1
            return super().__iter__()

    cfg = study_in("run")
    study = runner.prepare(cfg, config.settings(cfg))
    said = [{"example_id": name, "source": "s", "message": name} for name in ("b", "", "a", "b")]
    study = replace(study, warnings=Counted(said))
    for name, n in [("a", 1), ("b", 2), ("", 1), ("c", 0)] * 3:
        found = study.warnings_of(name)
        assert [one["message"] for one in found] == [name] * n
        assert all(one["cell_id"] == study.cell_id for one in found)
    assert Counted.read == 1


def test_slurm_is_asked_for_as_many_cpus_as_a_worker_has_threads(study_in, monkeypatch):
    folder = stopped(study_in("run", "runtime=slurm", "runtime.threads=3"))
    asked = {}

    class Executor:
        def __init__(self, **options):
            asked.update(options)

        def update_parameters(self, **options):
            asked.update(options)
            raise KeyboardInterrupt

    monkeypatch.setattr(scale, "_import", lambda *_: SimpleNamespace(AutoExecutor=Executor))
    cfg = worker_module.read_config(folder)
    crew = worker_module.crew_of(cfg)
    with pytest.raises(KeyboardInterrupt):
        scale.on_slurm(folder, ["a"], cfg.runtime.executor, lambda done: None, crew)
    assert asked["cpus_per_task"] == 3
    # What starts a job runs no file of the current folder either.
    assert [shlex.split(asked[f"{one}_python"])[1:] for one in ("slurm", "local")] == [["-P"]] * 2


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://127.0.0.1:10001", "Ray's client"),
        ("somewhere", "HOST:PORT"),
        ("127.0.0.1:99999", "HOST:PORT"),
        ("127.0.0.1:9", "nobody answers there"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(address, said):
    began = time.monotonic()
    with pytest.raises(InputError, match=f"runtime.executor.address={address}.*{said}"):
        scale._refuse_address(address)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", [ConnectionError, RuntimeError])
def test_a_cluster_that_cannot_be_joined_is_one_sentence(kind):
    class Ray:
        job_config = SimpleNamespace(JobConfig=SimpleNamespace)

        def init(self, **options):
            raise kind("no\n cluster")

    with (
        pytest.raises(InputError, match=r"address=auto: no Ray cluster.*joined.*no cluster"),
        scale._ray_cluster(Ray(), {"address": "auto"}, 1),
    ):
        pass
    # Where it cannot be started here, nothing that was asked for is wrong: exit code 1, not 2.
    with (
        pytest.raises(
            SaliencyBenchError, match=r"started here.*runtime=processes.*no cluster"
        ) as own,
        scale._ray_cluster(Ray(), {"address": None}, 1),
    ):
        pass
    assert own.value.exit_code == 1


def test_a_worker_runs_no_python_file_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("json", "hydra", "torch", "subprocess"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the current folder ran')")
    command = scale._command(tmp_path / "nothing", 0, 1)
    for words in (command, [*scale.PYTHON, "-c", scale._RUN_AND_TELL, *command]):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert "of the current folder ran" not in done.stderr
        assert "no unfinished run" in done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
@pytest.mark.skipif(
    not Path("/proc/net/tcp").is_file(), reason="listening sockets are read in /proc"
)
def test_a_cluster_of_this_machine_hears_nobody_else_and_runs_no_file_of_the_current_folder(
    tmp_path,
):
    """In a process of its own, since Ray is imported once; sockets that listen by /proc, not by Ray."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    script = tmp_path / "script.py"
    (tmp_path / "here").mkdir()
    script.write_text(CLUSTER)
    done = subprocess.run(
        [*scale.PYTHON, str(script)],
        cwd=tmp_path / "here",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["listening"]
    assert {address[-8:] for address in found["listening"]} == {"0100007F"}
    assert not {"", ".", str(tmp_path / "here")} & set(found["path"])


#: Starts a cluster, and says what its processes listen at (hexadecimal, as the system has it) and a worker's path.
CLUSTER = """
import json, os
from pathlib import Path
from saliency_bench.studies import executors as scale

def listening():
    def inodes(pid):
        for one in Path(f"/proc/{pid}/fd").iterdir():
            try:
                yield os.readlink(one)
            except OSError:
                pass
    def parent(pid):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    def ours(pid):
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parent(pid)
        return False
    held = set()
    for one in Path("/proc").glob("[0-9]*"):
        try:
            if ours(int(one.name)):
                held |= set(inodes(one.name))
        except OSError:
            pass
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in held]

def path():
    import sys
    return sys.path

scale._keep_ray_to_this_machine()
import ray
with scale._ray_cluster(ray, {"address": None}, 1):
    found = ray.get(ray.remote(path).remote())
    print(json.dumps({"listening": listening(), "path": found}))
"""


@pytest.mark.parametrize(
    ("there", "n", "threads", "gpus", "said"),
    [
        ({"CPU": 4.0}, 2, 1, 1, r"gpus_per_worker=1 for 2 workers needs 2 GPUs.*has 0"),
        ({"CPU": 4.0, "GPU": 1.0}, 2, 1, 1, "needs 2 GPUs"),
        ({"CPU": 4.0}, 3, 2, 0, r"runtime.threads=2 for 3 workers needs 6 CPUs.*has 4"),
    ],
)
def test_what_a_cluster_does_not_have_is_refused_and_not_waited_for(there, n, threads, gpus, said):
    class Ray:
        def cluster_resources(self):
            return there

    with pytest.raises(InputError, match=said):
        scale._refuse_absent_resources(Ray(), n, threads, gpus)
    scale._refuse_absent_resources(Ray(), 1, 1, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
def test_what_went_wrong_on_ray_is_said_as_if_it_had_happened_here(study_in):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    cfg = study_in("run", "runtime=ray", "runtime.executor.workers=1")
    folder = stopped(cfg)
    parts = folder / "parts"
    shutil.rmtree(parts, ignore_errors=True)
    parts.write_text("a file where parts would go")
    execute = scale.executor(cfg.runtime.executor, worker_module.crew_of(cfg))
    with pytest.raises(StorageError) as caught:
        execute(folder, ["00004-0000"], lambda done: None)
    assert "\x1b" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert str(caught.value).startswith(str(parts))
    assert caught.value.__suppress_context__
    with pytest.raises(InputError, match="needs 1000 GPUs"):
        scale.on_ray(
            folder,
            ["00004-0000"],
            cfg.runtime.executor | {"gpus_per_worker": 1000},
            lambda done: None,
            CREW,
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runtime=processes", "runtime.threads=null"], "runtime.threads"),
        (["runtime=processes", "runtime.executor.workers=0"], "runtime.executor.workers"),
        (["runtime=processes", "+runtime.executor.worker=2"], "'worker'"),
        (["runtime=processes", "runtime.executor.workers=two"], "runtime.executor.workers"),
        (["runtime=prcesses"], "'processes'"),
    ],
)
def test_an_executor_that_is_asked_for_wrongly_is_refused(study_in, words, said):
    with pytest.raises(InputError, match=said):
        study_in("run", *words)


def test_an_executor_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setitem(scale.sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"saliency-bench\[ray\]"):
        scale._import("ray", "ray")


@pytest.mark.slow
@pytest.mark.parametrize(("n_killed", "n_started"), [(1, 2), (2, 4)])
def test_what_killed_processes_leave_goes_to_the_others_and_where_none_is_left_to_new_ones(
    study_in, whole, monkeypatch, n_killed, n_started
):
    start, started = scale._start, []

    def killed_at_first(folder, shard, n):
        process = start(folder, shard, n)
        started.append(process)
        if len(started) <= n_killed:
            process.kill()
        return process

    monkeypatch.setattr(scale, "_start", killed_at_first)
    cfg = study_in("run", "runtime=processes")
    assert (
        tables(run(cfg, scale.executor(cfg.runtime.executor, worker_module.crew_of(cfg)))) == whole
    )
    assert len(started) == n_started


@pytest.mark.slow
def test_slurms_local_executor_gives_the_same_bytes(study_in, whole):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    cfg = study_in("run", "runtime=slurm", "runtime.executor.cluster=local")
    assert (
        tables(run(cfg, scale.executor(cfg.runtime.executor, worker_module.crew_of(cfg)))) == whole
    )


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
def test_ray_gives_the_same_bytes_and_a_killed_workers_block_goes_to_another(study_in, whole):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    cfg = study_in("run", "runtime=ray")
    assert (
        tables(run(cfg, killing(scale.executor(cfg.runtime.executor, worker_module.crew_of(cfg)))))
        == whole
    )


def killing(execute):
    """The same, but the first Ray worker that has done something is killed while the others work."""
    import signal

    def wrapped(folder, pieces, tell):
        killed = []

        def told(done):
            if not killed:
                for path in scale.Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        name = path.read_bytes()
                    except OSError:
                        continue
                    if name.startswith(b"ray::") and b"Worker" in name:
                        scale.os.kill(int(path.parent.name), signal.SIGKILL)
                        killed.append(name)
                        break
                time.sleep(0.1)
            tell(done)

        execute(folder, pieces, told)
        assert killed

    return wrapped
