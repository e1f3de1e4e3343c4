"""`saliency-bench explain`: a coloured token map of one text for each setting."""

import json
import re
import shlex
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from saliency_bench.cli import config
from saliency_bench.core import conf as conf_files
from saliency_bench.core import display
from saliency_bench.core.continuations import runs
from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.method_facts import entry_label
from saliency_bench.core.program import as_typed, program
from saliency_bench.core.verdicts import Limits, conclusion, judged, result
from saliency_bench.studies.progress import importing, progress, uncollected

if TYPE_CHECKING:
    from saliency_bench.core.maps import AttributionMap

OPTIONS = (
    "--pair=TEXT, --option=TEXT (once for each), --chat, --segment=NAME=WORDS (once for each), --at=PLACE, --html=FILE, "
    "--json=SHAPE, --top=K and --special-tokens"
)


def explain(words: list[str]) -> None:
    """Explains a text, and prints the maps or writes them as a page."""
    if not words or not words[0].strip():
        raise InputError('explain takes a text: saliency-bench explain "a gripping, funny film"')
    text, *rest = words
    options = _options(rest)
    cfg = config.load(options.overrides)
    maps, model, left_out = _maps(cfg, text, options)
    if options.json:
        print(json.dumps(display.records(maps, options.json), indent=1, allow_nan=False))
        print(*left_out, sep="\n", end="\n" * bool(left_out), file=sys.stderr)
        return
    from saliency_bench.report.token_maps import show_maps, show_verdicts
    from saliency_bench.store.durable import replace_file

    shown = {"top": options.top, "special_tokens": options.special_tokens}
    limits = Limits(cfg.convergence.largest_gap, cfg.convergence.smallest_tau)
    verdicts = judged(runs(maps), limits)
    said = [result(maps, verdicts, model), conclusion(verdicts, model), *left_out]
    if options.html:
        made = {"Model": model, "Command": shlex.join([program(), "explain", *words])}
        page = display.page(maps, verdicts=verdicts, result=said, made=made, **shown)
        replace_file(Path(options.html), page.encode())
    show_maps(maps, **shown)
    show_verdicts(verdicts, said)
    if options.html:
        print(f"Page: {options.html}")
    if cfg.model.name == "default":
        print(
            as_typed(
                "For a model of your own: saliency-bench explain TEXT model=hub model.path=FOLDER_OR_HUB_ID"
            )
        )


def _maps(
    cfg: config.Config, text: str, options: Namespace
) -> "tuple[list[AttributionMap], str, list[str]]":
    """The maps of the text by every setting, the name of the model, and why methods that nobody named are left out."""
    with importing():
        config.validate(cfg)
        from saliency_bench.api import attribute
        from saliency_bench.attribution.describe import described
        from saliency_bench.studies.prepare import load_configured_model
    maps: list[AttributionMap] = []
    refused: dict[str, InputError] = {}
    with progress() as show:
        show("loading the model", 0, 0)
        with uncollected():  # more is imported
            model = load_configured_model(cfg)
        show("explaining the text", 0, 0)
        for s in config.settings(cfg):
            try:
                maps += attribute(
                    model,
                    [_input(text, options)],
                    s.method,
                    backend="native" if s.backend == "none" else s.backend,
                    target=s.target,
                    output=s.output,
                    reduction=s.reduction,
                    seed=s.seed,
                    token_budget=cfg.runtime.token_budget,
                    at=_places(options.at),
                    continuation=options.option,
                    **s.hyper,
                )
            except InputError as error:
                if options.named:
                    raise
                refused[entry_label(described(s))] = error
    if not maps:
        raise next(iter(refused.values()))
    return maps, model.name, [f"{name} is left out: {why}" for name, why in refused.items()]


def _input(text: str, options: Namespace) -> dict[str, Any]:
    """The text, or the chat, with the pair and the segments of the options.

    Raises:
        InputError: what begins as the messages of a chat is no JSON.
    """
    item: dict[str, Any] = {"text": text}
    if options.chat:
        item = {"messages": [{"role": "user", "content": text}]}
        if text.lstrip().startswith("["):
            try:
                item = {"messages": json.loads(text)}
            except ValueError as error:
                raise InputError(
                    f"explain --chat: expected a message, or a JSON list of messages with role and content ({error})"
                ) from None
    if options.pair is not None:
        item["text_pair"] = options.pair
    if options.segment:
        item["segments"] = [_segment(words) for words in options.segment]
    return item


def _segment(words: str) -> list[str]:
    """NAME=WORDS as the name and the words; without a name the words alone."""
    name, sign, rest = words.partition("=")
    return [name, rest] if sign and rest and re.fullmatch(r"[\w.-]+", name) else [words]


def _places(at: str | None) -> int | list[int] | str | None:
    """`--at` as a place or a list of places, `5` or `1,2`; else words with a meaning in the task."""
    if at is None or not re.fullmatch(r"\d+(\s*,\s*\d+)*", at.strip()):
        return at
    places = [int(place) for place in at.split(",")]
    return places if len(places) > 1 else places[0]


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"explain: {message}. The options are {OPTIONS}.")


def _options(words: Sequence[str]) -> Namespace:
    """The options of `explain` itself, `overrides` of the configuration, and `named`: whether they choose methods."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name in ("--pair", "--at", "--html"):
        parser.add_argument(name, type=_text)
    for name in ("--option", "--segment"):
        parser.add_argument(name, type=_text, action="append")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--json", choices=display.SHAPES)
    parser.add_argument("--top", type=_count)
    parser.add_argument("--special-tokens", action="store_true")
    parser.add_argument("overrides", nargs="*")
    options, others = parser.parse_known_intermixed_args(words)
    if others:
        raise unknown(
            "option of explain", others[0].split("=")[0], re.findall("--[a-z-]+", OPTIONS)
        )
    options.named = any(
        re.match(r"(method|experiment|preset)=", word) for word in options.overrides
    )
    if not options.named:
        options.overrides.append(f"method=[{','.join(conf_files.explained())}]")
    if not any(word.startswith(("experiment=", "~experiment")) for word in options.overrides):
        options.overrides.append("~experiment")
    return options


def _text(text: str) -> str:
    if not text:
        raise ArgumentTypeError("expected a text, got nothing")
    return text


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)
