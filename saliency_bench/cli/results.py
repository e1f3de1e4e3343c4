"""Verbs that read finished runs: `report`, `across` and `compare`. They load no model and no PyTorch."""

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from saliency_bench.core.errors import InputError, SaliencyBenchError, ValidationError, counted
from saliency_bench.core.labels import PRIMARY
from saliency_bench.core.program import for_another_model, program
from saliency_bench.core.rows import FAILED
from saliency_bench.experiments import reports
from saliency_bench.report import build, published, terminal
from saliency_bench.report.across import across as beside_each_other
from saliency_bench.report.differences import differences
from saliency_bench.report.html import in_memory
from saliency_bench.report.parity import parities
from saliency_bench.store.manifest import portable
from saliency_bench.store.run import Run, read_run
from saliency_bench.store.suite import SUITE
from saliency_bench.studies.progress import progress

MAKING = "making tables and figures"
EXAMPLE = "a gripping, funny film"


def report(words: list[str]) -> None:
    """Makes tables, figures and page from the rows of a folder: of a run, or of `trust` or `sanity`."""
    folder = one_folder("report", words)
    if not reports.is_of_experiment(folder):
        report_run(folder)
        return
    with progress() as show:
        show(MAKING, 0, 0)
        finished = reports.read(folder)
        reports.render(finished, folder)
    reports.show(finished, folder)


def report_run(folder: Path) -> None:
    """Makes and prints the report of a run.

    Raises:
        ValidationError: numbers of the run disagree with Captum's.
        SaliencyBenchError: some numbers could not be computed.
    """
    with progress() as show:
        show(MAKING, 0, 0)
        run = read_run(folder)
        build.build_report(run)
    terminal.show(run)
    _say_what_next(run)
    _refuse_wrong_numbers(run)


def _say_what_next(run: Run) -> None:
    """Prints commands that go on from here, as they can be typed; none of a model that was in memory."""
    if in_memory(run.manifest):
        return
    words = shlex.split(str(run.manifest.get("command") or ""))
    config = run.manifest.get("config") or {}
    model = config.get("model") or {}
    if str(config.get("name")).startswith(f"{SUITE}_"):
        print("Next:", f"  {program()} {shlex.join(['submit', str(run.folder)])}", sep="\n")
        return
    sweeps = {"-m", "--multirun"} & {*words}
    of_model = [word for word in words if word.startswith(("model=", "model.")) and not sweeps]
    next_steps = [" ".join([f'explain "{EXAMPLE}"', *map(shlex.quote, of_model)])]
    if [word for word in words[1:] if not word.startswith("out=")] in ([], ["run"]):
        next_steps.insert(0, "experiment=method_comparison")
    if model.get("name") == "default":
        next_steps.append(for_another_model(words))
    print("Next:", *(f"  {program()} {step}" for step in next_steps), sep="\n")


def _refuse_wrong_numbers(run: Run) -> None:
    for pair in parities(run):
        if pair.verdict == "differs":
            raise ValidationError(
                f"setting {pair.setting_id} differs from Captum's {pair.other_id} by {pair.relative:.2g} of the "
                f"largest score, expected at most {pair.tolerance:.2g}. See the report's parity table."
            )
    failed = int((run.tables["rows"]["status"] == FAILED).sum())
    if failed:
        raise SaliencyBenchError(
            f"{counted(failed, 'value')} could not be computed. See the report's notes."
        )


def one_folder(verb: str, words: list[str]) -> Path:
    """The only word after a verb, which is a folder.

    Raises:
        InputError: there is no word, or more than one.
    """
    if len(words) != 1:
        raise InputError(
            f"{verb} takes one run folder, got {len(words)}: saliency-bench {verb} DIR"
        )
    return Path(words[0])


def across(words: list[str]) -> None:
    """Several runs of the same settings side by side: other training seeds, noise seeds, data or models."""
    options, folders = options_and_folders("across", words, {"out", "metric"})
    if not options.get("out"):
        raise InputError(
            "across takes run folders and out=DIR: saliency-bench across A B C out=DIR"
        )
    out = Path(options["out"])
    with progress() as show:
        show(MAKING, 0, 0)
        runs = [read_run(folder) for folder in folders]
        compared = beside_each_other(runs, options.get("metric", PRIMARY))
        command = portable(shlex.join(["saliency-bench", "across", *words]))
        tables = list(build.build_across(compared, runs, out, command))
    console = terminal.console_for()
    for table in tables:
        terminal.print_fitting(console, table, out / "across.md")


def compare(words: list[str]) -> None:
    """Two runs beside each other, or a run beside the numbers of a published table."""
    options, folders = options_and_folders("compare", words, {"published", "cell", "out"})
    with progress() as show:
        show("reading the runs", 0, 0)
        runs = [read_run(folder) for folder in folders]
    if len(runs) == 2 and not options.keys() - {"out"}:
        tables = differences(*runs)
    elif len(runs) == 1 and options.get("published"):
        table = published.read(options["published"])
        tables = published.compare(runs[0], table, options.get("cell"))
    else:
        raise InputError(
            "compare takes two run folders, or one and a published table, with a cell of it if you like; and a folder "
            "for the files: saliency-bench compare DIR DIR [out=DIR], or compare DIR published=sig [cell=NAME] [out=DIR]"
        )
    if options.get("out"):
        build.write_tables(tables, Path(options["out"]))
    console = terminal.console_for()
    for made in tables:
        terminal.print_whole(console, made)


def options_and_folders(
    verb: str, words: Sequence[str], keys: Collection[str]
) -> tuple[dict[str, str], list[Path]]:
    """The words `key=value` with one of the keys, and all others, which are folders; a folder's name may have a `=` too."""
    options: dict[str, str] = {}
    folders: list[Path] = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in keys:
            options[key] = value
        elif equals and not Path(word).exists():
            listed = ", ".join(f"{option}=" for option in sorted(keys))
            raise InputError(f"{verb}: {word} is no folder here, and no option: {listed}")
        else:
            folders.append(Path(word))
    return options, folders
