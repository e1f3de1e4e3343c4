"""How close `estimate` comes: ten studies, each estimated and then run in the same process.

    python -m benchmarks.forecast OUT [STUDY ...]

All of them, or those that are named; the others stay as they are in OUT. Gradients must be exact; seconds and forward rows are compared as ratios of what the run took to what was said. Seconds are
those of the process on one thread, so that what else the machine does counts for neither side. What a study has chosen on
another split counts on both sides. Writes OUT/forecast.json, anew after each study.
"""

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
        *["~experiment", "method=[smoothgrad]", f"{SG}.n_samples=[24,100]", "metric=[srg]"],
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
    manifests = [json.loads(path.read_text("utf-8")) for path in folder.rglob("manifest.json")]
    spent = [manifest["circumstances"]["spent"] for manifest in manifests]
    took = {key: sum(one[key] for one in spent) for key in said}
    ratio = {key: took[key] / said[key] if said[key] else None for key in said}
    return {"study": name, "words": list(words), "said": said, "took": took, "ratio": ratio}


def main(out: Path, names: Sequence[str]) -> None:
    """Measures the studies of these names and writes them."""
    time.perf_counter = time.process_time  # before the package takes its clock
    from benchmarks.record import Record

    record, file = Record(), out / "forecast.json"
    kept = json.loads(file.read_text("utf-8")) if file.is_file() else {"studies": []}
    studies = {one["study"]: {"code": _code(kept)} | one for one in kept["studies"]}
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="forecast-") as place:
            studies[name] = measured(name, STUDIES[name], Path(place) / "run")
        ratio = studies[name]["ratio"]
        print(f"{name}: seconds x {ratio['seconds']:.2f}, gradients x {ratio['gradients']}", flush=True)  # fmt: skip
        content = {"studies": [studies[one] for one in STUDIES if one in studies]}
        content |= record.provenance(threads=1)
        studies[name]["code"] = _code(content)
        file.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _code(content: Mapping[str, Any]) -> Any:
    """The code that a file was made by: studies that are measured anew may have another."""
    return content["identity"]["code"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(STUDIES))
