"""Real commands on a small study of a tiny model, for tests that kill or starve them."""

import random
import subprocess
import sys

#: The command as users start it.
REAL = (sys.executable, "-m", "saliency_bench")
#: The same without pictures in its report, which take most of the time of a small study and are the last it makes.
BENCH = (
    sys.executable,
    "-c",
    "from saliency_bench.report import build\n"
    "build.FIGURES = {}\n"
    "from saliency_bench.cli.main import main\n"
    "raise SystemExit(main())",
)


def command(folder, place, out, *more, start=BENCH):
    """The words of a study of the texts in a place, to go to `out`, which may be a name in that place."""
    words = ["~experiment", "model=hub", f"model.path={folder}", "data=file", "data.text=text"]
    words += [f"data.path={place / 'texts.csv'}", f"out={place / out}", "runtime.device=cpu"]
    words += ["method=[vanilla,smoothgrad]", "metric=[srg]", "name=t", "convergence.n_examples=0"]
    words += ["runtime.threads=1", "statistics.n_resamples=100", *more]
    return [*start, *words]


def texts(tmp_path, n=24):
    stream = random.Random(0)
    lines = [
        " ".join(f"w{stream.randrange(40)}" for _ in range(stream.randrange(2, 14)))
        for _ in range(n)
    ]
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(lines) + "\n", "utf-8")


def tables(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def run(words):
    return subprocess.run(words, capture_output=True, text=True, check=False)
