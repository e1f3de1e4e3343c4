"""Prints token maps on a terminal, or as plain text in a file or pipe. Imports neither pandas nor matplotlib."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saliency_bench.core.captions import facts, headings, legend
from saliency_bench.core.heatmap import only_top, spans_to_rich, token_map, visible
from saliency_bench.core.segments import segment_map
from saliency_bench.core.verdicts import Verdict, heads, largest_words

if TYPE_CHECKING:
    from saliency_bench.core.maps import AttributionMap

_PLAIN_WIDTH = 160  # of a file or pipe, which has none
_VERDICTS_WIDTH = 100  # of the table of verdicts, whose cells are sentences


def console_for() -> Console:
    """Returns the terminal, or a wide page without colours for a file or pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)


def show_maps(
    maps: Sequence["AttributionMap"],
    console: Console | None = None,
    *,
    top: int | None = None,
    special_tokens: bool = False,
) -> None:
    """Prints coloured token maps; without colours the score follows every token.

    Args:
        maps: the maps in their order.
        console: the console; None: the terminal.
        top: the number of tokens that are coloured, or have their scores, those with the largest magnitudes; None: all.
        special_tokens: whether special tokens such as [CLS] are shown.

    Raises:
        InputError: `top` is not a whole number of at least 1.
    """
    console = console or console_for()
    colored = console.is_terminal and console.color_system is not None
    legends = []
    for attribution, title in zip(maps, headings(maps), strict=True):
        tokens = token_map(attribution, special_tokens=special_tokens)
        console.print(Text(title, style="bold"))
        shown = spans_to_rich(only_top(tokens, top), colored)
        console.print(shown, soft_wrap=not colored)
        if segments := segment_map(attribution):
            console.print(Text("Segments: ").append_text(spans_to_rich(segments)))
        console.print(Text(largest_words(attribution, tokens.signed)), soft_wrap=not colored)
        console.print(Text(facts(attribution, tokens), style="dim"), soft_wrap=not colored)
        console.print()
        legends.append(legend(attribution, tokens.signed, top, zero="white"))
    for text in dict.fromkeys(legends if colored else []):
        console.print(Text(text, style="dim"))


def show_verdicts(
    verdicts: Sequence[Verdict], sentences: Sequence[str], console: Console | None = None
) -> None:
    """Prints the verdicts on maps, and sentences that say the result and which of them to trust."""
    console = console or console_for()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for head in heads():
        table.add_column(Text(head), overflow="fold")
    for verdict in verdicts:
        style = "bold red" if verdict.passed is False else ""
        table.add_row(*(Text(cell, style=style) for cell in verdict.cells))
    console.print(table, width=min(console.width, _VERDICTS_WIDTH))
    for sentence in filter(None, sentences):
        console.print(Text(visible(sentence), style="bold"), soft_wrap=not console.is_terminal)
