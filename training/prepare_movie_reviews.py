"""Builds the bundled dataset from the original tab-separated file: prepare_movie_reviews.py SNIPPETS.tsv."""

import sys
from pathlib import Path

from saliency_bench.data import movie_reviews


def main(source: str) -> None:
    """Writes the Parquet file that the package ships."""
    lines = Path(source).read_bytes().decode("utf-8").split("\r\n")
    table = movie_reviews.prepare([line for line in lines if line])
    table.to_parquet(movie_reviews.FILE, index=False, compression="zstd")
    print(table.groupby("split").rating.agg(["size", lambda ratings: (ratings > 0).mean()]))


if __name__ == "__main__":
    main(sys.argv[1])
