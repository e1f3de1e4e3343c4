"""The bundled dataset: movie review sentences with mean human sentiment ratings.

Source: the review snippets of Hutto & Gilbert (ICWSM 2014), MIT licence; movie_reviews/README.md.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from saliency_bench.core.errors import InputError, unknown
from saliency_bench.data import dataset
from saliency_bench.data.example import Example
from saliency_bench.data.lexicon import rated

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent / "movie_reviews"
FILE = FOLDER / "snippets.parquet"
LABELS = ("negative", "positive")
SPLITS = ("train", "validation", "test")
LARGEST_RATING = 4.0
HELD_OUT = 1000  # sentences in the test split, and again in the validation split


@dataset
def load(*, split: str, lexicon: float | None = None) -> list[Example]:
    """The sentences of a split, ordered by the hash of their text: any prefix is a random sample.

    Args:
        split: train, validation or test.
        lexicon: words that people rated at least so strongly (0 to 4), with the sign of the sentence, are `relevant`;
            None: nothing is known to be.
    """
    if split not in SPLITS:
        raise unknown("data.split", split, list(SPLITS))
    if lexicon is not None and not 0 < lexicon <= LARGEST_RATING:
        raise InputError(f"data.lexicon={lexicon}: expected a rating above 0 and up to 4, or null")
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


def prepare(lines: list[str]) -> "pd.DataFrame":
    """The table shipped in the package, from lines `id TAB rating TAB text` in any order.

    Sentences rated exactly 0 have no sign and are dropped; of repeated texts the smallest id is
    kept. The 1,000 smallest SHA-256 hashes of the text are the test split, the next 1,000
    validation, the rest training: a split that depends on the text alone.
    """
    import pandas as pd

    table = pd.DataFrame([line.split("\t") for line in lines], columns=["id", "rating", "text"])
    table = table.astype({"id": int, "rating": float})
    table = table[table.rating != 0].sort_values("id").drop_duplicates("text")
    digests = table.text.map(lambda text: hashlib.sha256(text.encode()).hexdigest())
    table = table.assign(digest=digests).sort_values("digest", ignore_index=True)
    table["split"] = "train"
    table.loc[: HELD_OUT - 1, "split"] = "test"
    table.loc[HELD_OUT : 2 * HELD_OUT - 1, "split"] = "validation"
    return table.drop(columns="digest")


@cache
def _table() -> "pd.DataFrame":
    import pandas as pd

    return pd.read_parquet(FILE)
