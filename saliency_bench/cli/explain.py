"""`saliency-bench explain`: a coloured token map of one text for each setting."""

import json
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from saliency_bench.cli import config
from saliency_bench.cli.progress import importing, progress, uncollected
from saliency_bench.core import display
from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.verdicts import Limits, conclusion, verdict

if TYPE_CHECKING:
    from saliency_bench.core.maps import AttributionMap

OPTIONS = "--pair=TEXT, --option=TEXT (once for each), --at=PLACE, --html=FILE, --json=SHAPE, --top=K and --special-tokens"


def explain(words: list[str]) -> None:
    """Explains a text, and prints the maps or writes them as a page."""
    if not words or not words[0].strip():
        raise InputError('explain takes a text: saliency-bench explain "a gripping, funny film"')
    text, *rest = words
    options = _options(rest)
    overrides = options.overrides
    if not any(word.startswith(("experiment=", "~experiment")) for word in overrides):
        overrides.append("~experiment")
    cfg = config.load(overrides)
    maps, model = _maps(cfg, text, options)
    if options.json:
        print(json.dumps(display.records(maps, options.json), indent=1, allow_nan=False))
        return
    from saliency_bench.report.token_maps import show_maps, show_verdicts
    from saliency_bench.store.durable import replace_file

    shown = {"top": options.top, "special_tokens": options.special_tokens}
    limits = Limits(cfg.convergence.largest_gap, cfg.convergence.smallest_tau)
    verdicts = [verdict(attribution, limits) for attribution in maps]
    said = conclusion(verdicts, model)
    if options.html:
        page = display.page(maps, verdicts=verdicts, conclusion=said, **shown)
        replace_file(Path(options.html), page.encode())
    show_maps(maps, **shown)
    show_verdicts(verdicts, said)


def _maps(cfg: config.Config, text: str, options: Namespace) -> "tuple[list[AttributionMap], str]":
    """The maps of the text by every setting, and the name of the model."""
    with importing():
        config.validate(cfg)
        from saliency_bench.api import attribute
        from saliency_bench.studies.prepare import load_configured_model
    with progress() as show:
        show("loading the model", 0, 0)
        with uncollected():  # more is imported
            model = load_configured_model(cfg)
        show("explaining the text", 0, 0)
        maps = [
            one
            for s in config.settings(cfg)
            for one in attribute(
                model,
                text if options.pair is None else [(text, options.pair)],
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
        ]
        return maps, model.name


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
    """The options of `explain` itself, and `overrides`."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name in ("--pair", "--at", "--html"):
        parser.add_argument(name, type=_text)
    parser.add_argument("--option", type=_text, action="append")
    parser.add_argument("--json", choices=display.SHAPES)
    parser.add_argument("--top", type=_count)
    parser.add_argument("--special-tokens", action="store_true")
    parser.add_argument("overrides", nargs="*")
    options, others = parser.parse_known_intermixed_args(words)
    if others:
        raise unknown(
            "option of explain", others[0].split("=")[0], re.findall("--[a-z-]+", OPTIONS)
        )
    return options


def _text(text: str) -> str:
    if not text:
        raise ArgumentTypeError("expected a text, got nothing")
    return text


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)
