"""The bundled dataset: movie review sentences with mean human sentiment ratings.

Source: the review snippets of Hutto & Gilbert (ICWSM 2014), MIT licence; movie_reviews/README.md.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from saliency_bench.core import ranges
from saliency_bench.core.errors import one_of
from saliency_bench.data import dataset
from saliency_bench.data.example import Example
from saliency_bench.data.lexicon import rated

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent / "movie_reviews"
FILE = FOLDER / "snippets.parquet"
LABELS = ("negative", "positive")
SPLITS = ("train", "validation", "test")


@dataset
def load(*, split: str, lexicon: float | None = None) -> list[Example]:
    """Returns the sentences of a split, ordered by the hash of their text: any prefix is a random sample.

    Args:
        split: train, validation or test.
        lexicon: words are `relevant` if people rated them at least this strongly (0 to 4) with the sign of the sentence;
            None: it is unknown what matters.
    """
    one_of("data.split", split, SPLITS)
    ranges.check(lexicon, "data.lexicon")
    rows = _table()
    rows = rows[rows.split == split]
    return [
        Example(
            id=f"movie-{row.id}",
            text=row.text,
            label=int(row.rating > 0),
            source=f"{FILE.name}:{row.id}",
            relevant=None if lexicon is None else rated(row.text, row.rating > 0, lexicon),
            extra={"rating": row.rating},
        )
        for row in rows.itertuples()
    ]


@cache
def _table() -> "pd.DataFrame":
    import pandas as pd

    return pd.read_parquet(FILE)
