"""Every command of the README and of docs/ runs: as printed, but on a tiny model and two texts."""

import json
import re
import shlex
from functools import cache

import pytest
from pages import PROGRAMS, ROOT, commands

from saliency_bench.attribution import calibration
from saliency_bench.cli import main as cli

# PEFT asks for it.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

#: Beginnings of commands that no test runs as they are printed, with the reason.
NOT_RUN = {
    "./scripts/test": "runs the tests",
    "pip install": "installs",
    "bash benchmarks/tools/environments.sh": "makes an environment for each of six tools",
    "python -m benchmarks.tools": "needs these environments",
    "python -m training": "trains for minutes",
    "ENVIRONMENTS/": "needs these environments",
    "saliency-bench runtime=processes": "tests/study/test_executors.py starts workers",
    "saliency-bench runtime=ray": "tests/study/test_executors.py starts workers",
    "saliency-bench runtime=slurm": "needs a cluster; tests/study/test_executors.py has a stand-in",
    "saliency-bench suite v1": "its numbers are frozen: tests/cli/test_submissions.py runs it on eight texts",
    "saliency-bench submit": "of a run of the suite, as above",
    "saliency-bench leaderboard": "of a run of the suite, as above",
    "saliency-bench verify": "of a run of the suite, as above",
    "saliency-bench experiment=reproduce_sig model=nanoguard": "its prompts have more tokens than the tiny vocabulary",
    "saliency-bench models prepare": "needs another package: tests/models/test_preparing.py",
}
#: What makes a study small.
SMALL = [
    *("n_examples=2", "metric=[srg,completeness_gap]", "agreement.metrics=[kendall_tau]"),
    *("convergence.n_examples=1", "timing.enabled=false", "statistics.n_resamples=100"),
    *("report.n_examples=1", "runtime.threads=1"),
]
#: The tasks of models whose folders the pages do not name.
TASKS = {"smollm2": "text-generation", "nanoguard": "sequence-classification"}
TEXTS = ["she lived in london .", "a gripping , funny film", "a waste of two hours"]
#: Data files by the names that pages give them.
FILES = {
    "texts.csv": "text\n" + "\n".join(f'"{text}"' for text in TEXTS),
    "reviews.csv": 'review,sentiment\n"a funny film",positive\n"far too long",negative',
    "sentences.csv": "text\nshe lived in london .",
    "pairs.jsonl": json.dumps({"premise": TEXTS[0], "hypothesis": TEXTS[1]}),
    "HUB_ID/test.csv": "text,label\na funny film,1\nfar too long,0",
}
#: Folders of finished runs by the names that pages give them, with their seeds.
RUNS = {"DIR": 0, "A": 0, "B": 1, "DIR0": 0, "DIR1": 1, "DIR2": 2, "results/mine": 0}


def reason_not_to_run(words):
    """Why a command is not run; None if it is."""
    line = " ".join(words)
    return next((why for start, why in NOT_RUN.items() if line.startswith(start)), None)


LINES = sorted({shlex.join(words) for _, words in commands() if not reason_not_to_run(words)})


def test_each_command_that_is_not_run_stands_on_a_page():
    lines = [" ".join(words) for _, words in commands()]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with the folders and files that the pages name."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(calibration, "N_TEXTS", 4)
        patch.setattr("saliency_bench.report.build.FIGURES", {})
        patch.setattr("saliency_bench.report.build.ACROSS_FIGURES", {})
        patch.setenv("SALIENCY_BENCH_PROGRAM", "./scripts/bench")
        for name, content in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content + "\n", "utf-8")
        for key in cli.QUIET:
            patch.setenv(key, cli.QUIET[key])
        yield folder


@cache
def model_of(place, task):
    """The folder of a tiny random model of the task."""
    import tiny_chats
    import torch
    import transformers
    from tiny_heads import FRAME, SIZES

    from saliency_bench.models.heads import HEADS

    folder = place / task
    torch.manual_seed(0)
    if task == "text-generation":
        tiny_chats.bpe_tokenizer().save_pretrained(folder)
        module = tiny_chats.tiny_decoder("gpt2", dtype=torch.float32).module
    else:
        words = dict.fromkeys(re.findall(r"\w+|[.,]", " ".join(FILES.values()).lower()))
        vocabulary = place / "vocabulary"
        vocabulary.mkdir(exist_ok=True)
        (vocabulary / "vocab.txt").write_text("\n".join([*FRAME, *words]))
        transformers.BertTokenizer.from_pretrained(vocabulary).save_pretrained(folder)
        names = (
            ["B-LOC", "I-LOC", "O"] if task == "token-classification" else ["negative", "positive"]
        )
        labels = {
            "id2label": dict(enumerate(names)),
            "label2id": {n: i for i, n in enumerate(names)},
        }
        sizes = SIZES | {"vocab_size": len(FRAME) + len(words)} | labels
        made = transformers.AutoConfig.for_model("bert", **sizes)
        module = getattr(transformers, HEADS[task].auto).from_config(made).eval()
    module.save_pretrained(folder)
    return folder


@cache
def adapter_of(place):
    """The folder of an adapter of the tiny classifier."""
    import peft
    from transformers import AutoModelForSequenceClassification

    base = model_of(place, "sequence-classification")
    module = AutoModelForSequenceClassification.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    peft.get_peft_model(module, config).save_pretrained(place / "ADAPTER_FOLDER")
    return place / "ADAPTER_FOLDER"


@cache
def run_of(place, name):
    """The folder of a finished study of the tiny classifier."""
    words = ["~experiment", "method=[vanilla,random]", "metric=[srg]", f"seed={RUNS[name]}"]
    assert cli.main([*words, *SMALL, *tiny(place, words), f"out={name}"]) == 0


def tiny(place, words):
    """Overrides by which a study, or an explanation, has a tiny model; they come after the page's words and win."""
    values = dict(word.split("=", 1) for word in words if "=" in word)
    chosen = TASKS.get(values.get("model", ""), "sequence-classification")
    task = values.get("model.task", chosen)
    overrides = ["model=hub", f"model.path={model_of(place, task)}", f"model.task={task}"]
    if values.get("model") == "nanoguard":
        overrides.append("model.labels=[safe,injection]")
    if "model.adapter" in values:
        overrides.append(f"model.adapter={adapter_of(place)}")
    return overrides


def small(place, words, out):
    """The words of a command with what makes it small; what it writes goes to `out`."""
    if "published=sig" in words:
        words = [
            str(ROOT / "results" / "reproduce" / "sig") if word == "DIR" else word for word in words
        ]
    for word in words:
        if word in RUNS:
            run_of(place, word)
    is_verb = words and "=" not in words[0] and words[0][0] not in "-~"
    verb = words[0] if is_verb else "run"
    if verb in ("run", "estimate", "explain"):
        kept = [word for word in words if not word.startswith(("model=", "model.path=", "out="))]
        study = [] if verb == "explain" else [*SMALL, f"out={out}"]
        if "experiment=reproduce_sig" in words:  # it gives values to the metrics of its own
            study = [word for word in study if not word.startswith("metric=")]
        return [*kept, *tiny(place, words), *study]
    if verb == "sanity":
        base = model_of(place, "sequence-classification")
        return [*words, f"model={base}", "n_examples=2", "sections=[stability]", f"out={out}"]
    return [f"out={out}" if word.startswith("out=") else word for word in words]


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_pages_runs(line, place, tmp_path, capfd):
    program, *words = shlex.split(line)
    assert program in PROGRAMS
    assert cli.main(small(place, words, tmp_path / "out")) == 0, capfd.readouterr().err
