"""The command line: a verb, then Hydra. Nothing heavy is imported before it is needed."""

import json
import os
import re
import select
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from saliency_bench import __version__
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import (
    InputError,
    SaliencyBenchError,
    ValidationError,
    is_out_of_memory,
    unknown,
)
from saliency_bench.core.rows import FAILED

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from saliency_bench.cli.progress import Show
    from saliency_bench.cli.schema import Config
    from saliency_bench.core.maps import AttributionMap
    from saliency_bench.store.run import Run
    from saliency_bench.study.run import Execute

HELP = """\
saliency-bench: how faithful are the gradient saliency maps of a transformer,
at what cost, and are they right?

Usage:
  saliency-bench [run] [OVERRIDE ...]           run a study: tables, figures, page
  saliency-bench estimate [OVERRIDE ...]        what that would cost; writes nothing
  saliency-bench resume DIR                     go on with a run that was stopped
      [runtime.executor.workers=N]              by as many workers as you like
  saliency-bench merge DIR                      put together what workers finished
  saliency-bench work DIR shard=I/N             be one of N workers of a run
  saliency-bench report DIR                     make them again from a run's rows,
                                                or those of trust and sanity
  saliency-bench across DIR DIR ... out=DIR     several runs, models or seeds beside
                                                each other: what holds over all
  saliency-bench compare DIR DIR                what differs between two runs
  saliency-bench compare DIR published=NAME     beside numbers that others printed:
                                                sig, naopc or bastings
  saliency-bench explain TEXT [OVERRIDE ...]    a coloured token map per method
      --pair=TEXT                               with a second text
      --at=PLACE                                where it is asked: docs/tasks.md;
                                                1,2 are two places
      --html=FILE [--top=K] [--special-tokens]  as a page
      --json=article|allennlp                   as the records of older tools
  saliency-bench list [methods|metrics|models|data|experiments|presets]
  saliency-bench validate [model=PATH] [n_examples=N] [out=DIR]
                                                every method against Captum
  saliency-bench throughput [profile=full] [KEY=VALUE ...]
                                                how fast, beside Captum
  saliency-bench trust [KEY=VALUE ...]          which metrics prefer a ranking that
                                                is known to be right
  saliency-bench sanity [model=PATH] [KEY=VALUE ...]
                                                do maps depend on the model, on
                                                chance and on small changes as
                                                they should
  saliency-bench doctor                         what works here, and what does not

Examples:
  saliency-bench                                # quickstart: 30 sentences, minutes
  saliency-bench experiment=method_comparison
  saliency-bench method=[vanilla,smoothgrad] method.smoothgrad.n_samples=48
  saliency-bench method.smoothgrad.noise_std=[0.05,0.1,0.2]     # a list is an axis
  saliency-bench model=hub model.path=FOLDER_OR_HUB_ID
  saliency-bench data=file data.path=films.csv data.text=review data.label=liked
  saliency-bench explain "a gripping, funny film" method=[integrated_gradients]

Overrides are Hydra's, and so are its options:
  --cfg job            print the configuration and stop
  -m, --multirun       one study per combination of values: -m seed=0,1,2
  --config-dir DIR     a folder of your own experiments, methods and models
  --trust-config-dir   take that of others, or one with settings of Hydra's:
                       it is code
  -sc install=bash     shell completion (bash, zsh, fish)
  --hydra-help         the rest
  -h, --help; --version

Exit codes: 0 done, 1 failed, 2 bad usage or input, 3 a check of the numbers
failed, 4 storage, 5 out of memory, 130 interrupted. SALIENCY_BENCH_TRACEBACK=1
shows where an unexpected failure came from.
"""

#: What `list` shows, and the folder of conf/ that it stands in.
GROUPS = {
    "methods": "method",
    "metrics": "metric",
    "models": "model",
    "data": "data",
    "experiments": "experiment",
    "presets": "preset",
}

#: Nobody reads our output any more, as after `| head`: the code of a process that SIGPIPE ended.
UNREAD = 141

#: What `explain` takes beside overrides.
EXPLAIN_OPTIONS = ("--pair", "--at", "--html", "--json", "--top", "--special-tokens")

#: What libraries must not say on a terminal that shows our progress.
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after the program's name; those of this process where None.

    Returns:
        The exit code; an error has been printed as one message on standard error.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    try:
        with _terminated_like_interrupted():
            code = _dispatch(words)
            sys.stdout.flush()  # a reader that is gone shows here at the latest
            return code
    except (
        SystemExit
    ) as stop:  # Hydra's and argparse's way to end, and rich's where nobody reads on
        if isinstance(stop.__context__, BrokenPipeError):
            return UNREAD
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:  # an interrupt is an end like any other
        return UNREAD if _nobody_reads(error) else _fail(error)


def _dispatch(words: list[str]) -> int:
    if "-h" in words or "--help" in words:
        print(HELP, end="")
        return 0
    if words == ["--version"]:
        print(f"saliency-bench {__version__}")
        return 0
    verb, rest = "run", words
    if words and not words[0].startswith(("-", "~", "+")) and "=" not in words[0]:
        verb, rest = words[0], words[1:]
    if verb not in VERBS and rest and rest[0].startswith("="):
        raise InputError(
            f"{verb} {' '.join(rest[:2])}: expected no space around =, as n_examples=3"
        )
    if verb not in VERBS:
        raise unknown("command", verb, list(VERBS))
    return VERBS[verb](rest)


def run(words: list[str]) -> int:
    """Everything that Hydra understands; each composed configuration is one study."""
    import hydra
    from hydra._internal.utils import get_args_parser

    from saliency_bench.cli import config, hydra_words
    from saliency_bench.cli import config_trust as trusted

    plain = [word for word in words if word != trusted.FLAG]
    given, strange = get_args_parser().parse_known_intermixed_args(plain)
    if strange:
        raise InputError(
            f"unknown option {strange[0]!r}: expected KEY=VALUE, or an option of saliency-bench --help."
        )
    trusted.refuse_code(given, trusts=len(plain) < len(words))
    overrides = hydra_words.as_hydra_reads(given.overrides, sweeps=given.multirun)
    for_hydra = [*_without(plain, given.overrides), *overrides]
    config.register()
    studies: list[Exception | None] = []

    def study(node: "DictConfig") -> None:
        # Hydra would announce a failure in its own words before handing it on.
        try:
            studies.append(None)
            _study(node, words)
        except Exception as error:
            studies[-1] = error

    decorate = hydra.main(str(conf_files.folder()), "config", version_base="1.3")
    try:
        with config.refusing_absent_folders(), _as_program(for_hydra):
            decorate(study)()
    except Exception as error:
        if studies:
            raise
        # Until a study is entered, all that Hydra does is to read what the user gave.
        raise InputError(config.readable(error, config.Config)) from error
    return max([_fail(error) for error in studies if error is not None], default=0)


def _without(words: Sequence[str], others: Sequence[str]) -> list[str]:
    """The words that are not among others, which stand among them in their order."""
    kept, left = [], list(others)
    for word in words:
        if left[:1] == [word]:
            del left[0]
        else:
            kept.append(word)
    return kept


def _study(node: "DictConfig", words: Sequence[str]) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from saliency_bench.cli import config

    cfg = config.from_hydra(node)
    hydra = HydraConfig.get()
    given = list(hydra.overrides.task) if hydra.mode == RunMode.MULTIRUN else words
    from saliency_bench.cli.progress import importing, progress

    with progress() as show:
        importing(show)
        config.validate(cfg)
        from saliency_bench.cli.worker import crew_of
        from saliency_bench.study.executors import executor
        from saliency_bench.study.run import run as run_study

        command, execute = ["saliency-bench", *given], executor(cfg.runtime.executor, crew_of(cfg))
        folder = run_study(cfg, config.settings(cfg), command, show, _announce, execute)
    _report(folder)


def _announce(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _report(folder: Path) -> None:
    from saliency_bench.cli.progress import progress

    with progress() as tell:
        tell("making tables and figures", 0, 0)
        from saliency_bench.report.build import build_report
        from saliency_bench.report.terminal import show
        from saliency_bench.store.run import read_run

        finished = read_run(folder)
        build_report(finished)
    show(finished)
    _refuse_wrong_numbers(finished)


def _refuse_wrong_numbers(finished: "Run") -> None:
    """An exit code for what the report says: numbers that disagree with Captum, or could not be had."""
    from saliency_bench.report.parity import parities

    for one in parities(finished):
        if one.verdict == "differs":
            raise ValidationError(
                f"setting {one.setting_id} differs from Captum's {one.other_id} by {one.relative:.2g} of the "
                f"largest score, expected at most {one.tolerance:.2g}. See the report's parity table."
            )
    failed = int((finished.tables["rows"]["status"] == FAILED).sum())
    if failed:
        raise SaliencyBenchError(f"{failed} values could not be computed. See the report's notes.")


def resume(words: list[str]) -> int:
    """Goes on with a run that was stopped; what its folder says is read as data."""
    from saliency_bench.cli.progress import importing, progress

    with progress() as show:
        importing(show)
        from saliency_bench.cli import worker
        from saliency_bench.study.executors import executor

    def typed(key: str) -> str | None:
        given = [word.removeprefix(key) for word in words if word.startswith(key)]
        return given[-1] if given else None

    address, workers = typed(worker.ADDRESS), typed(worker.WORKERS)

    def execute(cfg: "Config") -> "Execute | None":
        options = worker.typed_address(cfg.runtime.executor, address, Path(str(cfg.out)))
        return executor(worker.typed_workers(options, workers), worker.crew_of(cfg))

    rest = [word for word in words if not word.startswith((worker.ADDRESS, worker.WORKERS))]
    return _go_on("resume", rest, execute)


def merge(words: list[str]) -> int:
    """Puts together what workers have finished, once nothing is missing."""
    from saliency_bench.cli.progress import importing, progress

    with progress() as show:
        importing(show)
        from saliency_bench.study.executors import nobody

    return _go_on("merge", words, lambda cfg: nobody)


def _go_on(verb: str, words: list[str], execute: "Callable[[Config], Execute | None]") -> int:
    from saliency_bench.cli import config
    from saliency_bench.cli.progress import progress
    from saliency_bench.cli.worker import read_config
    from saliency_bench.store.run import MANIFEST
    from saliency_bench.study.run import run as run_study

    folder = _one_folder(verb, words)
    if not (folder / MANIFEST).is_file():
        cfg = read_config(folder)
        command = ["saliency-bench", verb, str(folder)]
        with progress() as show:
            run_study(cfg, config.settings(cfg), command, show, _announce, execute(cfg))
    _report(folder)
    return 0


def work(words: list[str]) -> int:
    """One of the workers of a run; an executor starts it."""
    from saliency_bench.study.driver import end_with_driver

    end_with_driver()  # before the libraries are loaded, which takes seconds
    from saliency_bench.cli import worker

    helps = words[2:] == ["help=true"]
    match = re.fullmatch(r"shard=(\d+)/(\d+)", words[1] if len(words) == 2 + helps else "")
    if match is None or not int(match[1]) < int(match[2]):
        raise InputError(
            "work takes a run folder and a shard, and help=true where it is to take others' blocks after its own: "
            "saliency-bench work DIR shard=0/4"
        )
    worker.work(Path(words[0]), int(match[1]), int(match[2]), helps)
    return 0


def doctor(words: list[str]) -> int:
    """What works on this machine."""
    if words:
        raise InputError(f"doctor takes nothing, got {words[0]!r}")
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from saliency_bench.cli.doctor import BAD, GOOD, checks
    from saliency_bench.cli.progress import progress

    table = Table(box=None, show_header=False)
    with progress() as show:
        show("trying what is installed", 0, 0)
        found = list(checks())
    for one in found:
        shade = {GOOD: "green", BAD: "bold red"}.get(one.state, "yellow")
        table.add_row(Text(one.name, style="bold"), Text(one.state, style=shade), Text(one.said))
    Console(highlight=False).print(table)
    return int(any(one.state == BAD for one in found))


def report(words: list[str]) -> int:
    """Tables, figures and page from the rows of a folder, of a run or of `trust` or `sanity`; loads no model."""
    from saliency_bench.cli.progress import progress

    folder = _one_folder("report", words)
    with progress() as tell:
        tell("making tables and figures", 0, 0)
        from saliency_bench.experiments import findings

        found = findings.read(folder) if findings.is_one(folder) else None
        if found is not None:
            findings.render(found, folder)
    if found is not None:
        findings.show(found, folder)
    else:
        _report(folder)
    return 0


def _one_folder(verb: str, words: list[str]) -> Path:
    if len(words) != 1:
        raise InputError(
            f"{verb} takes one run folder, got {len(words)}: saliency-bench {verb} DIR"
        )
    return Path(words[0])


def explain(words: list[str]) -> int:
    """A coloured token map of one text per setting."""
    if not words or not words[0].strip():
        raise InputError('explain takes a text: saliency-bench explain "a gripping, funny film"')
    from saliency_bench.cli import config
    from saliency_bench.cli.progress import progress

    text, *rest = words
    options, overrides = _explain_options(rest)
    if not any(word.startswith(("experiment=", "~experiment")) for word in overrides):
        overrides.append("~experiment")
    cfg = config.load(overrides)
    with progress() as show:
        maps = _explained(cfg, text, options, show)
    from saliency_bench.core import display as explanation
    from saliency_bench.report.terminal import show_maps

    top = int(options["top"]) if "top" in options else None
    special = "special-tokens" in options
    if options.get("json"):
        print(json.dumps(explanation.records(maps, options["json"]), indent=1, allow_nan=False))
        return 0
    if options.get("html"):
        from saliency_bench.store.durable import replace_file

        made = explanation.page(maps, top=top, special_tokens=special)
        replace_file(Path(options["html"]), made.encode())
    show_maps(maps, top=top, special_tokens=special)
    return 0


def _explained(
    cfg: "Config", text: str, options: Mapping[str, str], show: "Show"
) -> "list[AttributionMap]":
    """The maps of the text by every setting."""
    from saliency_bench.cli import config
    from saliency_bench.cli.progress import importing

    importing(show)
    config.validate(cfg)
    from saliency_bench.api import attribute
    from saliency_bench.study.prepare import load_configured_model

    show("loading the model", 0, 0)
    model, at = load_configured_model(cfg), _places(options.get("at"))
    show("explaining the text", 0, 0)
    return [
        one
        for s in config.settings(cfg)
        for one in attribute(
            model,
            [(text, options["pair"])] if "pair" in options else text,
            s.method,
            backend="native" if s.backend == "none" else s.backend,
            target=s.target,
            output=s.output,
            reduction=s.reduction,
            seed=s.seed,
            token_budget=cfg.runtime.token_budget,
            at=at,
            **s.hyper,
        )
    ]


def _places(at: str | None) -> int | list[int] | str | None:
    """`--at` as a place or a list of places, `5` or `1,2`; else words with a meaning in the task."""
    if at is None or not re.fullmatch(r"\d+(\s*,\s*\d+)*", at.strip()):
        return at
    places = [int(place) for place in at.split(",")]
    return places if len(places) > 1 else places[0]


def _explain_options(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What is asked of `explain` itself, and the overrides."""
    from saliency_bench.core.display import SHAPES

    found: dict[str, str] = {}
    overrides = []
    names = "|".join(EXPLAIN_OPTIONS).replace("--", "")
    for word in words:
        match = re.fullmatch(rf"--({names})(?:=(.*))?", word, re.DOTALL)
        if match is None and word.startswith("-"):  # no override does
            raise unknown("option of explain", word.split("=")[0], list(EXPLAIN_OPTIONS))
        if match is None:
            overrides.append(word)
        elif (match[1] == "special-tokens") == bool(match[2]):
            raise InputError(
                f"explain: {word}: expected --pair=TEXT, --at=PLACE, --html=FILE, --json=SHAPE, --top=K or "
                "--special-tokens"
            )
        else:
            found[match[1]] = match[2] or ""
    if "json" in found and found["json"] not in SHAPES:
        raise unknown("--json", found["json"], list(SHAPES))
    if not re.fullmatch(r"[1-9]\d*", found.get("top", "1")):
        raise InputError(f"explain: --top={found['top']}: expected a whole number of at least 1")
    return found, overrides


def estimate(words: list[str]) -> int:
    """What a study would cost, by stage, from a few of its texts; nothing is written."""
    from saliency_bench.cli import config

    cfg = config.load([word for word in words if word])
    from saliency_bench.cli.progress import importing, progress

    with progress() as tell:
        importing(tell)
        config.validate(cfg)
        from saliency_bench.cli.forecast_table import show
        from saliency_bench.study.forecast import foresee
        from saliency_bench.study.prepare import prepare

        study = prepare(cfg, config.settings(cfg), lambda stage: tell(stage, 0, 0))
        tell("estimating", 0, 0)
        found = foresee(study)
    show(found)
    return 0


def list_parts(words: list[str]) -> int:
    """What can be selected, from conf/."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kinds = words or list(GROUPS)
    for kind in kinds:
        if kind not in GROUPS:
            raise unknown("list", kind, list(GROUPS))
    console = Console()
    for kind in kinds:
        table = Table(
            title=f"{kind} ({GROUPS[kind]}=...)", title_justify="left", show_header=False, box=None
        )
        for name in conf_files.names(GROUPS[kind]):
            table.add_row(Text(name, style="bold"), Text(conf_files.summary(GROUPS[kind], name)))
        console.print(table)
        console.print()
    return 0


def _experiment(verb: str, words: list[str]) -> int:
    """Measures what an experiment asks, writes the results and shows them."""
    from saliency_bench.cli.progress import importing, progress

    with progress() as show:
        importing(show)
        from saliency_bench.experiments import scaffold

        experiment = scaffold.experiment(verb)
    options = experiment.options(words)
    with progress() as show:
        outcome = experiment.measure(options, show)
    scaffold.publish(options, outcome, ["saliency-bench", verb, *words])
    return 0


def validate(words: list[str]) -> int:
    """Every method that Captum has too, on several models and in two types, against Captum."""
    return _experiment("validate", words)


def throughput(words: list[str]) -> int:
    """Ours, Captum and a bare loop timed side by side, after they were found to agree."""
    return _experiment("throughput", words)


def trust(words: list[str]) -> int:
    """Every metric on rankings that are known to be right and on spoilt ones, by every removal operator."""
    return _experiment("trust", words)


def sanity(words: list[str]) -> int:
    """Random weights, random labels, other seeds, small changes, random removal and special tokens."""
    return _experiment("sanity", words)


def across(words: list[str]) -> int:
    """Several runs of the same settings side by side: other training seeds, noise seeds, data or models."""
    from saliency_bench.cli.progress import progress

    given, folders = _options_and_folders("across", words, {"out", "metric"})
    if not given.get("out"):
        raise InputError(
            "across takes run folders and out=DIR: saliency-bench across A B C out=DIR"
        )
    out = Path(given["out"])
    with progress() as tell:
        tell("making tables and figures", 0, 0)
        from saliency_bench.core.labels import PRIMARY
        from saliency_bench.report.across import across as read
        from saliency_bench.report.build import build_across
        from saliency_bench.report.terminal import console_for, print_fitting
        from saliency_bench.store.manifest import portable
        from saliency_bench.store.run import read_run

        runs = [read_run(folder) for folder in folders]
        found = read(runs, given.get("metric", PRIMARY))
        command = portable(shlex.join(["saliency-bench", "across", *words]))
        made = list(build_across(found, runs, out, command))
    console = console_for()
    for table in made:
        print_fitting(console, table, out / "across.md")
    return 0


def compare(words: list[str]) -> int:
    """Two runs beside each other, or a run beside the numbers of a published table."""
    from saliency_bench.cli.progress import progress

    given, folders = _options_and_folders("compare", words, {"published", "cell", "out"})
    with progress() as tell:
        tell("reading the runs", 0, 0)
        from saliency_bench.report import published
        from saliency_bench.report.build import write_tables
        from saliency_bench.report.differences import differences
        from saliency_bench.report.terminal import console_for, print_whole
        from saliency_bench.store.run import read_run

        runs = [read_run(folder) for folder in folders]
    if len(runs) == 2 and not given.keys() - {"out"}:
        found = differences(*runs)
    elif len(runs) == 1 and given.get("published"):
        found = published.compare(runs[0], published.read(given["published"]), given.get("cell"))
    else:
        raise InputError(
            "compare takes two run folders, or one and a published table, with a cell of it if you like; and a folder "
            "for the files: saliency-bench compare DIR DIR [out=DIR], or compare DIR published=sig [cell=NAME] [out=DIR]"
        )
    if given.get("out"):
        write_tables(found, Path(given["out"]))
    console = console_for()
    for table in found:
        print_whole(console, table)
    return 0


def _options_and_folders(
    verb: str, words: Sequence[str], known: Collection[str]
) -> tuple[dict[str, str], list[Path]]:
    """The words `key=value` with a known key, and all others, which are folders; a folder's name may have a `=` too."""
    given: dict[str, str] = {}
    folders: list[Path] = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in known:
            given[key] = value
        elif equals and not Path(word).exists():
            listed = ", ".join(f"{one}=" for one in sorted(known))
            raise InputError(f"{verb}: {word} is no folder here, and no option: {listed}")
        else:
            folders.append(Path(word))
    return given, folders


VERBS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "estimate": estimate,
    "resume": resume,
    "merge": merge,
    "work": work,
    "report": report,
    "across": across,
    "compare": compare,
    "explain": explain,
    "list": list_parts,
    "validate": validate,
    "throughput": throughput,
    "trust": trust,
    "sanity": sanity,
    "doctor": doctor,
}


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which schedulers send before they kill, ends a command as an interrupt does: in order."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt("terminated")

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _as_program(words: Sequence[str]) -> Iterator[None]:
    """Hydra reads `sys.argv`, and hands exceptions on only where it is told to show them in full."""
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["saliency-bench", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _nobody_reads(error: BaseException) -> bool:
    """Whether a pipe broke that is our output; what could not be written is dropped, so that the process ends quietly."""
    if not isinstance(error, BrokenPipeError):
        return False
    closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
    for stream in closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(closed)


def _is_closed(stream: TextIO) -> bool:
    """Whether the other end of a pipe is gone."""
    try:
        asked = select.poll()
        asked.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file at all
        return False
    return any(event & select.POLLERR for _, event in asked.poll(0))


def _fail(error: BaseException) -> int:
    """Prints what went wrong and says how the process ends."""
    if os.environ.get("SALIENCY_BENCH_TRACEBACK") == "1":
        traceback.print_exception(error)
    code, message = _outcome(error)
    # What a message quotes may be somebody else's, and a terminal would obey it.
    from saliency_bench.core.heatmap import visible

    said = "\n".join(map(visible, message.split("\n")))
    print(f"saliency-bench: {said}", file=sys.stderr)
    return code


def _outcome(error: BaseException) -> tuple[int, str]:
    if isinstance(error, SaliencyBenchError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, f"interrupted. {error}".rstrip()
    if is_out_of_memory(error):
        return 5, "out of memory. Lower runtime.token_budget, or use a smaller model."
    text = " ".join(str(error).split())
    return 1, f"unexpected {type(error).__name__}: {text} (SALIENCY_BENCH_TRACEBACK=1 shows where)"
