"""What a study will cost: one sentence before it starts, or a table."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saliency_bench.report.terminal import console_for

if TYPE_CHECKING:
    from saliency_bench.bench.forecast import Forecast
    from saliency_bench.models.ledger import Work

HEADINGS = ("Stage", "Gradients", "Forward rows", "Tokens", "Time", "Share")


def sentence(forecast: "Forecast") -> str:
    """About 12 minutes: 84,000 gradients of 31 tokens, about 1.2 GB of memory."""
    total = forecast.total
    parts = [
        _rows(total.gradients, total.gradient_tokens, "gradients"),
        _rows(total.forward_rows, total.forward_tokens, "forward rows"),
    ]
    if forecast.peak_bytes is not None:
        parts.append(f"about {size(forecast.peak_bytes)} of memory")
    return f"About {duration(total.seconds)}: {', '.join(part for part in parts if part)}."


def _rows(n: float, tokens: float, name: str) -> str:
    return f"{rounded(n)} {name} of {tokens / n:.0f} tokens" if n else ""


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
    for one in forecast.shared:
        if one.n_settings > 1:
            text = f"{one.name}: union of {one.n_settings} settings: {one.union} points per text; the largest alone: {one.largest}"
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


def rounded(n: float | int) -> str:
    """Whole, with commas, up to a hundred thousand; to three digits from there: 84,312; 2,130,000."""
    return f"{n if n < 1e5 else float(f'{n:.3g}'):,.0f}"


def size(n_bytes: float | int) -> str:
    """To two digits: 1.2 GB."""
    for prefix in ("", "k", "M", "G"):
        if n_bytes < 999.5:
            return f"{float(f'{n_bytes:.2g}'):g} {prefix}B"
        n_bytes /= 1000
    return f"{float(f'{n_bytes:.2g}'):g} TB"


def duration(seconds: float | int, *, short: bool = False) -> str:
    """In seconds up to 90, in minutes up to 90, in hours from there."""
    names = ("s", "min", "h") if short else ("seconds", "minutes", "hours")
    if seconds < 90:
        return f"{float(f'{seconds:.2g}'):g} {names[0]}"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} {names[1]}"
    return f"{seconds / 3600:.1f} {names[2]}"
