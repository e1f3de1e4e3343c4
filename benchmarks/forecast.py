"""How close `estimate` comes: ten studies, each estimated and then run in the same process.

    python -m benchmarks.forecast OUT

Gradients must be exact; seconds and forward rows are compared as ratios of what the run took to what was said. Seconds are
those of the process on one thread, so that what else the machine does counts for neither side. Writes OUT/forecast.json.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

IG, SG = "method.integrated_gradients", "method.smoothgrad"
STUDIES = {
    "quickstart": ["experiment=quickstart", "n_examples=12"],
    "method comparison": ["experiment=method_comparison", "n_examples=16"],
    "step sweep": ["experiment=step_sweep", "n_examples=12"],
    "noise sweep": ["experiment=noise_sweep", "n_examples=12"],
    "removal grid": ["experiment=removal_grid", "n_examples=12"],
    "shortcuts": ["experiment=shortcuts", "n_examples=24"],
    "plausibility": ["experiment=plausibility", "n_examples=40"],
    "one gradient": ["~experiment", "method=[vanilla,input_x_gradient]", "n_examples=40"],
    "long path": ["~experiment", "method=[integrated_gradients]", f"{IG}.n_steps=200", "n_examples=16"],
    "many samples, few metrics": [
        *["~experiment", "method=[smoothgrad]", f"{SG}.n_samples=[25,100]", "metric=[srg]"],
        *["n_examples=24", "timing.enabled=false"],
    ],
}  # fmt: skip


def measured(name: str, words: Sequence[str], folder: Path) -> dict[str, Any]:
    """One study: what was said, what it took, and the ratios of these."""
    from saliency_bench.cli import config
    from saliency_bench.studies.forecast import foresee
    from saliency_bench.studies.prepare import prepare
    from saliency_bench.studies.run import run

    cfg = config.load([*words, "runtime.threads=1"])
    config.validate(cfg)
    cfg = replace(cfg, out=str(folder))
    settings = config.settings(cfg)
    said = foresee(prepare(cfg, settings)).total._asdict()
    run(cfg, settings, ["benchmarks.forecast"])
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    spent = manifest["circumstances"]["spent"]
    took = {key: spent[key] for key in said}
    ratio = {key: took[key] / said[key] if said[key] else None for key in said}
    return {"study": name, "words": list(words), "said": said, "took": took, "ratio": ratio}


def main(out: Path) -> None:
    """Measures all ten and writes them."""
    time.perf_counter = time.process_time  # before the package takes its clock
    from saliency_bench.store.manifest import collect

    started = datetime.now(UTC)
    studies = []
    for name, words in STUDIES.items():
        with tempfile.TemporaryDirectory(prefix="forecast-") as place:
            studies.append(measured(name, words, Path(place) / "run"))
        ratio = studies[-1]["ratio"]
        print(f"{name}: seconds x {ratio['seconds']:.2f}, gradients x {ratio['gradients']}", flush=True)  # fmt: skip
    record: dict[str, Any] = {"studies": studies}
    record |= collect(
        {"threads": 1}, command=["python", *sys.argv], started=started, ended=datetime.now(UTC)
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "forecast.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
