"""The forecast of a study's cost as a table."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saliency_bench.core.errors import counted
from saliency_bench.report.terminal import console_for
from saliency_bench.studies.forecast import duration, rounded, sentence

if TYPE_CHECKING:
    from saliency_bench.models.ledger import Work
    from saliency_bench.studies.forecast import Forecast

HEADINGS = ("Stage", "Gradients", "Forward rows", "Tokens", "Time", "Share")


def show(forecast: "Forecast", console: Console | None = None) -> None:
    """Prints a line for each stage, what settings share, and the totals."""
    console = console or console_for()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "Stage" else "right")
    total = forecast.total
    for stage, work in forecast.stages.items():
        table.add_row(stage, *_amounts(work, total))
    table.add_section()
    table.add_row("total", *_amounts(total, total))
    console.print(table)
    for shared in forecast.shared:
        if shared.n_settings > 1 and shared.union:
            text = f"{shared.name}: union of {counted(shared.n_settings, 'setting')}: {shared.union} points per text; the largest alone: {shared.largest}"
            console.print(Text(text), soft_wrap=True)
    console.print(Text(sentence(forecast), style="bold"), soft_wrap=True)
    text = f"Measured on {forecast.sampled} of the texts; without loading the model and the report."
    console.print(Text(text, style="dim"), soft_wrap=True)


def _amounts(work: "Work", total: "Work") -> list[str]:
    counts = (work.gradients, work.forward_rows, work.gradient_tokens + work.forward_tokens)
    return [
        *(rounded(n) if n else "" for n in counts),
        duration(work.seconds, short=True),
        f"{work.seconds / total.seconds:.0%}" if total.seconds else "",
    ]
