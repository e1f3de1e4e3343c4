"""What a GPU does, on a machine that reaches no network: torch, transformers, scipy and pandas there.

    python -m benchmarks.gpu pack DIR         here: what such a machine lacks, at most 64 MiB in all
    python -m benchmarks.gpu run DIR OUT      there, from this repository's root, in at most eight minutes

`pack` gathers the wheels that are pure Python and the default model's tokenizer. `run` unpacks them beside, makes a model of
BERT-base's size from its configuration (random weights: speed does not depend on them), and writes OUT/cost
(benchmarks/gpu_cost.py) and OUT/throughput: beside Captum and a bare loop. Both print as they go on, and are cut when their
time is over. Words after OUT go to `saliency-bench throughput` last, as runtime.device=cpu.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST_BYTES = 64 * 2**20
#: With the versions of constraints.txt. The last has no wheel, so one is built.
WHEELS = (
    "hydra-core",
    "omegaconf",
    "captum",
    "peft",
    "jaxtyping",
    "wadler-lindig",
    "antlr4-python3-runtime",
)
#: After so many seconds each is interrupted, and leaves what it has measured: the more important parts come first.
SECONDS = {"cost": 330, "throughput": 90}
GRACE_SECONDS = 30
INTERRUPTED = 130
#: Captum is tuned over batches and passes as large as such a machine takes.
STUDY = (
    *("profile=full", "n_examples=512", "max_warmups=1", "product_seconds=0.2", "runtime.dtype=bfloat16"),
    *("contestants=[ours,captum_sorted,captum_random,bare_loop]", "sections=[contestants]"),
    *("options.captum_sorted.batch_sizes=[32,128]", "options.captum_sorted.tokens_at_once=[8192,32768]"),
)  # fmt: skip


def main(words: list[str]) -> int:
    """`pack` or `run`."""
    match words:
        case ["pack", folder]:
            return pack(Path(folder))
        case ["run", folder, out, *overrides]:
            return run(Path(folder), Path(out), overrides)
    print(__doc__, file=sys.stderr)
    return 2


def pack(folder: Path) -> int:
    """Writes wheels and the tokenizer; 1 if they are too large to be carried."""
    from saliency_bench.models.loading import load_default

    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", "-w", folder, *WHEELS], check=True)
    load_default().tokenizer.save_pretrained(folder / "default")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{size / 2**20:.1f} MiB in {folder}")
    return int(size > LARGEST_BYTES)


def limited(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> int:
    """The exit code of a study; 0 if it ended in order when its time was over."""
    study = subprocess.Popen(command, env=environment)
    try:
        return study.wait(seconds)
    except subprocess.TimeoutExpired:
        study.terminate()
    try:
        return 0 if study.wait(GRACE_SECONDS) == INTERRUPTED else 1
    except subprocess.TimeoutExpired:
        study.kill()
        study.wait()
        return 1


def unpack_missing(wheel: Path, site: Path) -> None:
    """Unpacks what this Python lacks, if only in part: what it has goes with the rest of what it has."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        if not all(find_spec(top) for top in tops if top.isidentifier()):
            archive.extractall(site)


def save_bert_base(folder: Path, tokenizer: Path) -> None:
    """A classifier of two classes of BERT-base's size with random weights, and the default model's tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig()).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)


def run(folder: Path, out: Path, overrides: Sequence[str]) -> int:
    """Runs both; the first exit code that is not 0."""
    site = folder / "site"
    for wheel in folder.glob("*.whl"):
        unpack_missing(wheel, site)
    save_bert_base(folder / "bert_base", folder / "default")
    paths = [str(ROOT), str(site), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
    }
    model, codes = folder / "bert_base", []
    studied = [f"model={model}", f"out={out / 'throughput'}", *STUDY, "runtime.device=cuda"]
    commands = {
        "cost": ["benchmarks.gpu_cost", model, out / "cost"],
        "throughput": ["saliency_bench", "throughput", *studied, *overrides],
    }
    for name, words in commands.items():
        code = limited([sys.executable, "-m", *map(str, words)], environment, SECONDS[name])
        codes.append(code or int(not (out / name / "manifest.json").is_file()))  # cut too early
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
