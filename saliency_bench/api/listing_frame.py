"""A table of parts that shows what they are where it is printed."""

import shutil
import textwrap

import pandas as pd

from saliency_bench.core.program import WIDEST


class Listing(pd.DataFrame):  # type: ignore[misc]  # pandas has no types
    """A DataFrame with `name` and `about`, of which a terminal shows these two; in all else it is as every other."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return Listing

    def __repr__(self) -> str:
        if not {"name", "about"} <= {*self.columns} or not len(self):
            return str(super().__repr__())
        width = min(shutil.get_terminal_size().columns, WIDEST)
        first = self["name"].str.len().max() + 2
        lines = [
            line
            for name, about in zip(self["name"], self["about"], strict=True)
            for line in textwrap.wrap(
                about, width, initial_indent=name.ljust(first), subsequent_indent=" " * first
            )
        ]
        others = ", ".join(map(str, self.columns.drop(["name", "about"])))
        return "\n".join([*lines, "", f"Its other columns: {others}."])
