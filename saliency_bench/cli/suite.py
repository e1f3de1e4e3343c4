"""Verbs of frozen studies: `suite` runs one, `submit` packs it, `verify` computes part of it again, `leaderboard` compares."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rich.text import Text

from saliency_bench.cli import results
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, ValidationError, counted, shown
from saliency_bench.core.heatmap import visible
from saliency_bench.core.program import as_typed
from saliency_bench.report import terminal
from saliency_bench.store import suite as suites
from saliency_bench.store import verified
from saliency_bench.store.durable import is_leftover
from saliency_bench.studies.progress import importing, progress

#: Default folders of submissions and of a leaderboard.
SUBMISSIONS, BOARD = Path("submissions"), Path("leaderboard")
#: Words that a submitter may choose.
_CHOSEN = re.compile(
    rf"(method|[+]*method\.\w+\.\w+|[+]*({'|'.join(suites.CHOSEN)})(\.[\w.]+)?)=.*", re.DOTALL
)
#: Names the file in which `verify` writes what it found, and from which `leaderboard` reads it.
RECORD = "verified"
_OPTIONS = ("--config-dir", "--trust-config-dir")
#: Keys of a submission's model that may be changed: its place on this machine.
_PLACES = ("path", "adapter")


def suite(words: list[str]) -> int:
    """Runs a suite with one's own methods or model; what it fixes cannot be changed."""
    if not words:
        raise InputError("suite takes a name: saliency-bench suite v1 method=[NAME]")
    name, *rest = words
    suites.check_name(name)
    overrides = _overrides(name, rest)
    from saliency_bench.cli import compose, config

    frozen = config.load([f"+{suites.GROUP}={name}", "~experiment"])

    def begin(cfg: Any, typed: Sequence[str]) -> None:
        with importing():
            from saliency_bench.cli import runs
        suites.refuse_files(cfg.method)
        suites.refuse_many(f"suite {name}", len(config.settings(cfg)))
        print(f"suite {name}, content digest {_content(name, cfg, frozen)}", flush=True)
        runs.start(cfg, ["saliency-bench", "suite", *words])

    return compose.composed([f"+{suites.GROUP}={name}", "~experiment", *overrides], begin)


def _overrides(name: str, words: Sequence[str]) -> list[str]:
    """The words as Hydra takes them: one's own methods beside the suite's.

    Raises:
        InputError: a word changes what the suite fixes.
    """
    overrides: list[str] = []
    for word, before in zip(words, ["", *words], strict=False):
        option = word.split("=")[0] in _OPTIONS or before == _OPTIONS[0]
        if not option and not _CHOSEN.fullmatch(word):
            raise InputError(
                f"{word}: suite {name} is frozen; method, model, runtime and out can be chosen. A study with other numbers "
                "is one of your own: saliency-bench --help"
            )
        if word.startswith("method="):
            overrides += _methods(name, word, words)
        else:
            overrides.append(word)
    return overrides


def _methods(name: str, word: str, words: Sequence[str]) -> list[str]:
    """The list of methods with the suite's own; a method without a file is selected by its registered name alone."""
    names = word.removeprefix("method=").strip("[]").split(",")
    registered = {point.name for point in entry_points(group="saliency_bench.methods")}
    fixed = suites.opponents(name)
    added = [method for method in map(str.strip, names) if method and method not in fixed]
    bare = [
        method
        for method in added
        if method in registered and not any(_has_file(folder, method) for folder in _folders(words))
    ]
    selected = [*fixed, *(method for method in added if method not in bare)]
    return [
        f"method=[{','.join(selected)}]",
        *(f"method.{method}.method={method}" for method in bare),
    ]


def _folders(words: Sequence[str]) -> list[Path]:
    """The folders of configuration: ours, and the one that is typed."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    typed = [after for word, after in pairs if word == _OPTIONS[0]]
    typed += [
        word.removeprefix(f"{_OPTIONS[0]}=") for word in words if word.startswith(f"{_OPTIONS[0]}=")
    ]
    return [conf_files.folder(), *map(Path, typed)]


def _has_file(folder: Path, method: str) -> bool:
    return (folder / "method" / f"{method}{conf_files.SUFFIX}").is_file()


def _content(name: str, cfg: Any, frozen: Any) -> str:
    """The digest of what the suite fixes, which must be the frozen one.

    Raises:
        InputError: a value of the configuration is not the suite's; the first ones are named.
    """
    from saliency_bench.studies.folder import differences
    from saliency_bench.studies.prepare import load_examples

    texts = [(example.text, example.text_pair) for example in load_examples(cfg)]
    of_study = suites.content(name, asdict(cfg), texts)
    if of_study == suites.CONTENTS[name]:
        return of_study
    fixed, values = asdict(frozen), asdict(cfg)
    values["method"] = {key: values["method"].get(key) for key in fixed["method"]}
    changed = [
        key for key in differences(fixed, values) if re.split("[. ]", key)[0] not in suites.UNFIXED
    ]
    where = (
        ", ".join(changed[:3]) or f"conf/{suites.GROUP}/{name}.yaml, what it selects, or the texts"
    )
    raise InputError(
        f"suite {name} has the content digest {suites.CONTENTS[name]}, this study {of_study}: it differs in {where}. Other numbers "
        "need another name."
    )


def submit(words: list[str]) -> None:
    """Makes the folder to hand in from a finished run of a suite."""
    options, folders = results.options_and_folders("submit", words, {"out"})
    if len(folders) != 1:
        raise InputError("submit takes one run folder: saliency-bench submit DIR [out=FOLDER]")
    out = Path(options.get("out") or SUBMISSIONS / folders[0].resolve().name)
    made = suites.pack(folders[0], out)
    size = sum(path.stat().st_size for path in out.iterdir() if not is_leftover(path.name))
    print(f"suite {made.suite}, content digest {made.content}: {out} ({size / 1e6:.2f} MB)")
    print(
        "Next:",
        as_typed(f"  saliency-bench verify {out} blocks=5"),
        as_typed(f"  saliency-bench leaderboard {out}"),
        sep="\n",
    )


def verify(words: list[str]) -> None:
    """Computes random blocks of a submission again and compares the numbers.

    Raises:
        ValidationError: they do not.
    """
    keys = {"blocks", "seed", RECORD, *(f"model.{key}" for key in _PLACES)}
    options, folders = results.options_and_folders("verify", words, keys)
    if len(folders) != 1:
        raise InputError("verify takes one submission: saliency-bench verify DIR blocks=5")
    n_blocks = _whole("blocks", options.get("blocks", "5"), 1)
    seed = _whole("seed", options["seed"], 0) if "seed" in options else None
    submission = suites.read(folders[0])
    with importing():
        from saliency_bench.cli import config
        from saliency_bench.studies import verify as verifying
    cfg = _configuration(submission, options)
    with progress() as show:
        outcome = verifying.verify(submission, cfg, config.settings(cfg), n_blocks, seed, show)
    _say(outcome)
    if RECORD in options:
        verified.record(Path(options[RECORD]), submission, _in_words(outcome))
    if not outcome.holds:
        raise ValidationError(f"{submission.run.folder}: other numbers came out; {outcome.why}.")


def _configuration(submission: suites.Submission, options: Mapping[str, str]) -> Any:
    """The configuration of a submission as data, with its model where that stands on this machine.

    Raises:
        InputError: it names a model that nobody typed.
    """
    from saliency_bench.cli import config

    plain = dict(submission.run.manifest["config"]) | {"out": None}
    model = dict(plain.get("model") or {})
    for key in _PLACES:
        if (typed := options.get(f"model.{key}")) is not None:
            if key not in model:
                raise InputError(
                    f"model.{key}={typed}: the submission's model has no {key}. Remove it."
                )
            model[key] = typed
        elif model.get(key) is not None:
            raise InputError(
                f"{submission.run.folder} would load {shown(model[key])}. Say where that model is, if you trust it: "
                f"model.{key}=FOLDER_OR_HUB_ID"
            )
    plain["model"] = model
    # In the order of the settings: the manifest is sorted.
    names = dict.fromkeys(str(setting["name"]) for setting in submission.run.settings)
    plain["method"] = {name: plain["method"][name] for name in names if name in plain["method"]}
    if (requested := submission.run.manifest.get(suites.REQUESTED_REMOVAL)) is not None:
        plain["evaluation"] = dict(plain["evaluation"]) | {"removal": requested}
    plain["runtime"] = dict(plain.get("runtime") or {}) | {
        "executor": conf_files.read("runtime", "here")["executor"]
    }
    cfg = config.from_plain(plain)
    config.validate(cfg)
    return replace(cfg, out=None)


def _whole(key: str, text: str, least: int) -> int:
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < least:
        raise InputError(f"{key}={text}: expected a whole number from {least} to 999999999")
    return int(text)


def _in_words(outcome: Any) -> str:
    """The words of a leaderboard for a submission that was verified."""
    if not outcome.holds:
        return "other numbers came out"
    how = "within rounding" if outcome.machine else "same bytes"
    return f"{len(outcome.blocks)} of {counted(outcome.n_blocks, 'block')}, {how}"


def _say(outcome: Any) -> None:
    """Prints the result of a comparison and the standard that applied."""
    console = terminal.console_for()
    lines = [
        f"{len(outcome.blocks)} of {counted(outcome.n_blocks, 'block')} computed again ({', '.join(outcome.blocks)}): {counted(outcome.n_texts, 'text')}, "
        f"{counted(outcome.n_values, 'value')}."
    ]
    if not outcome.machine:
        lines.append(
            f"A machine like the submission's: {'the same bytes' if outcome.same_bytes else 'other bytes'}."
        )
    else:
        lines.append(f"Another machine ({', '.join(outcome.machine[:4])}): a tolerance applies.")
    if not outcome.same_bytes:
        lines.append(
            f"Scores differ by {outcome.scores:.2g} of what rounding explains, values by {outcome.values:.2g}; "
            f"of one method {outcome.reordered} of {outcome.n_texts} maps are in another order"
            + ("." if outcome.exact else "; other columns differ.")
        )
    for line in lines:
        console.print(Text(visible(line)), soft_wrap=True)


def leaderboard(words: list[str]) -> None:
    """Writes a page and a CSV file that hold submissions of one suite beside each other."""
    options, folders = results.options_and_folders("leaderboard", words, {"out", RECORD})
    from saliency_bench.report import leaderboard as boards

    out = Path(options.get("out") or BOARD)
    with progress() as show:
        show(results.MAKING, 0, 0)
        submissions = [suites.read(folder) for folder in folders]
        if RECORD in options:
            record = Path(options[RECORD])
            if not record.is_file():
                raise InputError(f"{RECORD}={record}: no such file. verify writes it.")
            submissions = [verified.with_record(record, submission) for submission in submissions]
        tables = boards.write(submissions, out)
    console = terminal.console_for()
    for table in tables:
        terminal.print_fitting(console, table, out / boards.PAGE)
    console.print(Text(f"Page: {out / boards.PAGE}; numbers: {out / boards.CSV}"), soft_wrap=True)
