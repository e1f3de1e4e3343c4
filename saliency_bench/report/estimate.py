"""What a study will cost: one sentence before it starts, or a table."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saliency_bench.report.terminal import console_for

if TYPE_CHECKING:
    from saliency_bench.bench.estimate import Estimate, Line, Work

#: Lines below this share of the seconds are added up in one.
LITTLE = 0.005

#: Bounds that lie closer than this are not shown.
CLOSE = 1.1


def sentence(estimate: "Estimate") -> str:
    """About 12 minutes: 84,000 gradients of 31 tokens, 1.9 PFLOP, at most 1.2 GB."""
    total = estimate.total
    parts = [
        _rows(total.gradients, total.gradient_tokens, "gradients"),
        _rows(total.forward_rows, total.forward_tokens, "forward rows"),
        unit(total.flops, "FLOP"),
        f"about {unit(estimate.peak_bytes, 'B')} of memory",
    ]
    return f"About {duration(total.seconds)}: {', '.join(part for part in parts if part)}."


def _rows(n: float, tokens: float, name: str) -> str:
    return f"{rounded(n)} {name} of {tokens / n:.0f} tokens" if n else ""


def show(estimate: "Estimate", console: Console | None = None) -> None:
    """Prints a line for each part of each stage, what settings share, and the totals."""
    console = console or console_for()
    console.print(_table(estimate))
    for one in estimate.shared:
        if one.n_settings > 1:
            text = f"{one.name}: union of {one.n_settings} settings: {one.union} points per text; the largest alone: {one.largest}"
            console.print(Text(text), soft_wrap=True)
    console.print(Text(sentence(estimate), style="bold"), soft_wrap=True)
    tasted = f"{estimate.tasted} of the texts on the model itself" if estimate.tasted else "no text"
    text = f"Seconds: passes that were timed, and {tasted}. In brackets: the least and the most, where answers decide."
    console.print(Text(text, style="dim"), soft_wrap=True)


def _table(estimate: "Estimate") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in (
        "Stage",
        "Part",
        "Gradients",
        "Forward rows",
        "Tokens",
        "FLOP",
        "Time",
        "Share",
    ):
        table.add_column(heading, justify="left" if heading in ("Stage", "Part") else "right")
    whole = estimate.total
    large = [line for line in estimate.lines if line.work.seconds >= LITTLE * whole.seconds]
    before = ""
    for line in large:
        stage = line.place.stage
        table.add_row(
            stage if stage != before else "",
            line.place.part or "all else",
            _between(line, "gradients"),
            _between(line, "forward_rows"),
            *_amounts(line.work, whole),
        )
        before = stage
    little = [line.work for line in estimate.lines if line not in large]
    if little:
        rest = [sum(column) for column in zip(*little, strict=True)]
        work = type(whole)(*rest)
        counts = [rounded(n) if n else "" for n in (work.gradients, work.forward_rows)]
        table.add_row("", "all others", *counts, *_amounts(work, whole))
    table.add_section()
    table.add_row(
        "total", "", rounded(whole.gradients), rounded(whole.forward_rows), *_amounts(whole, whole)
    )
    return table


def _amounts(work: "Work", whole: "Work") -> list[str]:
    return [
        rounded(work.gradient_tokens + work.forward_tokens),
        unit(work.flops, ""),
        duration(work.seconds, short=True),
        f"{100 * work.seconds / whole.seconds:.0f} %" if whole.seconds else "",
    ]


def _between(line: "Line", name: str) -> str:
    least, expected, most = (getattr(one, name) for one in (line.least, line.work, line.most))
    if not expected:
        return ""
    apart = most > CLOSE * expected or expected > CLOSE * least
    return rounded(expected) + (f" [{rounded(least)}, {rounded(most)}]" if apart else "")


def rounded(n: float) -> str:
    """To three digits, with commas: 84,300."""
    return f"{float(f'{n:.3g}'):,.0f}"


def unit(amount: float, name: str) -> str:
    """To two digits, with the prefix that keeps it below a thousand: 1.9 PFLOP."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if amount < 999.5:
            return f"{float(f'{amount:.2g}'):g} {prefix}{name}".strip()
        amount /= 1000
    return f"{float(f'{amount:.2g}'):g} E{name}"


def duration(seconds: float, *, short: bool = False) -> str:
    """In seconds up to 90, in minutes up to 90, in hours from there."""
    names = ("s", "min", "h") if short else ("seconds", "minutes", "hours")
    if seconds < 90:
        return f"{float(f'{seconds:.2g}'):g} {names[0]}"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} {names[1]}"
    return f"{seconds / 3600:.1f} {names[2]}"
