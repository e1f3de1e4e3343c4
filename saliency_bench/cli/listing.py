"""`saliency-bench list`: what can be selected."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import one_of

#: What `list` takes, and the folder of conf/ that each stands in.
GROUPS = {
    "methods": "method",
    "metrics": "metric",
    "models": "model",
    "data": "data",
    "experiments": "experiment",
    "presets": "preset",
}


def list_parts(words: list[str]) -> None:
    """Prints the names of these kinds, of all kinds where none is given, with the sentence that heads each file."""
    for kind in words:
        one_of("list", kind, GROUPS)
    console = Console()
    for kind in words or GROUPS:
        group = GROUPS[kind]
        title = f"{kind} ({group}=...)"
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        for name in conf_files.names(group):
            table.add_row(Text(name, style="bold"), Text(conf_files.summary(group, name)))
        console.print(table)
        console.print()
