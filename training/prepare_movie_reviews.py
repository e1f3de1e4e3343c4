"""Builds the bundled dataset from the original tab-separated file.

python -m training.prepare_movie_reviews SNIPPETS.tsv
"""

import hashlib
import sys
from pathlib import Path

import pandas as pd

from saliency_bench.data import movie_reviews

HELD_OUT = 1000  # sentences in the test split, and again in the validation split


def prepare(lines: list[str]) -> pd.DataFrame:
    """The table that the package ships, from lines `id TAB rating TAB text` in any order.

    Sentences rated exactly 0 have no sign and are dropped; of repeated texts the smallest id is
    kept. The 1,000 smallest SHA-256 hashes of the text are the test split, the next 1,000
    validation, the rest training: a split that depends on the text alone.
    """
    table = pd.DataFrame([line.split("\t") for line in lines], columns=["id", "rating", "text"])
    table = table.astype({"id": int, "rating": float})
    table = table[table.rating != 0].sort_values("id").drop_duplicates("text")
    digests = table.text.map(lambda text: hashlib.sha256(text.encode()).hexdigest())
    table = table.assign(digest=digests).sort_values("digest", ignore_index=True)
    table["split"] = "train"
    table.loc[: HELD_OUT - 1, "split"] = "test"
    table.loc[HELD_OUT : 2 * HELD_OUT - 1, "split"] = "validation"
    return table.drop(columns="digest")


def main(source: str) -> None:
    """Writes the Parquet file that the package ships."""
    lines = Path(source).read_bytes().decode("utf-8").split("\r\n")
    table = prepare([line for line in lines if line])
    table.to_parquet(movie_reviews.FILE, index=False, compression="zstd")
    print(table.groupby("split").rating.agg(["size", lambda ratings: (ratings > 0).mean()]))


if __name__ == "__main__":
    main(sys.argv[1])
