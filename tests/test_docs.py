"""Every block of code in the README and in docs/ runs or composes, links lead somewhere, and the site shows every page."""

import re
import shlex
from itertools import chain

import pytest
import yaml
from pages import PAGES, PROGRAMS, ROOT, blocks, commands

import saliency_bench as sb
from saliency_bench.cli import config, results
from saliency_bench.cli.explain import _options
from saliency_bench.cli.main import VERBS
from saliency_bench.core import conf as conf_files

#: Run by tests/test_examples.py, on the article's own module.
ELSEWHERE = {"docs/from_the_article.md"}
#: What is said in these pages; the tokenizers know little else.
TEXTS = [
    "She lived in London . She lived in Paris . Where did she live ? in New York",
    "a gripping , funny film flat and far too long a waste of two hours",
]


class Models:
    """Tiny random models in place of the folders that pages name; each is made once."""

    def __init__(self, folder):
        self.folder = folder
        self.made = {}

    def load(self, path, *, task="sequence-classification", labels=None, **options):
        key = task, tuple(labels or ())
        if key not in self.made:
            self.made[key] = self._decoder() if task == "text-generation" else self._encoder(*key)
        return self.made[key]

    def _encoder(self, task, labels):
        import torch
        import transformers
        from tiny_heads import FRAME, SIZES

        from saliency_bench.models.heads import HEADS

        words = dict.fromkeys(word.lower() for text in TEXTS for word in text.split())
        (self.folder / "vocab.txt").write_text("\n".join([*FRAME, *words]))
        names = {"token-classification": ("B-LOC", "I-LOC", "B-PER")}.get(
            task, ("negative", "positive")
        )
        sizes = SIZES | {"vocab_size": len(FRAME) + len(words)}
        if HEADS[task].named:
            sizes["num_labels"] = len(names)
        torch.manual_seed(0)
        made = transformers.AutoConfig.for_model("bert", **sizes)
        module = getattr(transformers, HEADS[task].auto).from_config(made).double().eval()
        tokenizer = transformers.BertTokenizer.from_pretrained(self.folder)
        named = {"labels": names} if HEADS[task].named else {}
        return sb.wrap_model(module, tokenizer, task=task, **named)

    def _decoder(self):
        import tiny_chats

        before, tiny_chats.TEXTS = tiny_chats.TEXTS, [text.replace(" .", ".") for text in TEXTS]
        try:
            tokenizer = tiny_chats.bpe_tokenizer(600)
        finally:
            tiny_chats.TEXTS = before
        return tiny_chats.tiny_decoder("gpt2", tokenizer, vocab_size=len(tokenizer))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("vocabulary"))


@pytest.mark.parametrize("page", sorted({name for name, _ in blocks("python")} - ELSEWHERE))
def test_the_python_of_a_page_runs(page, models, monkeypatch, tmp_path):
    monkeypatch.setattr(sb, "load_model", models.load, raising=False)
    monkeypatch.chdir(tmp_path)
    names = {"sb": sb, "model": models.load("default"), "texts": ["a funny film", "far too long"]}
    if page == "docs/adding.md":
        names |= _what_a_method_needs(monkeypatch)
    for name, block in blocks("python"):
        if name == page:
            exec(compile(block, page, "exec"), names)


def _what_a_method_needs(monkeypatch):
    """The names that a file of methods imports; what it registers is forgotten again."""
    from saliency_bench.attribution import methods
    from saliency_bench.attribution.context import Context
    from saliency_bench.attribution.methods.base import GradientSum

    for known in (methods.METHODS._functions, methods.KINDS, methods.ABOUT):
        monkeypatch.setitem(known, "halfway_gradient", None)
        monkeypatch.delitem(known, "halfway_gradient")
    return {"method": methods.method, "Context": Context, "GradientSum": GradientSum}


OURS = [(page, words[1:]) for page, words in commands() if words[0] in PROGRAMS]


@pytest.mark.parametrize("page", sorted({page for page, _ in OURS}))
def test_the_commands_of_a_page_compose(page):
    for own, words in OURS:
        if own == page:
            _compose(words)


def _compose(words):
    verb, rest = (
        ("run", words)
        if not words or "=" in words[0] or words[0][0] in "-~"
        else (words[0], words[1:])
    )
    assert verb in VERBS, words
    if verb == "list":
        assert not rest or rest[0] in (
            "methods",
            "metrics",
            "models",
            "data",
            "experiments",
            "presets",
            "suites",
        )
    elif verb == "suite":
        assert rest[0] in conf_files.names("suite")
    elif verb == "info":
        assert any(rest[0] in conf_files.names(group) for group in ("method", "metric"))
    elif verb == "explain":
        config.load([*_options(rest[1:]).overrides, "~experiment"])
    elif verb in ("run", "estimate"):
        config.settings(config.load([word for word in rest if not word.startswith("-")]))
    elif verb in ("validate", "throughput", "trust", "sanity"):
        from saliency_bench.experiments import scaffold

        scaffold.experiment(verb).options(rest)
    else:  # of folders
        assert rest or verb in ("doctor", "models")


def test_explain_shows_what_the_page_of_choices_advises():
    """Each method that nobody has to name stands in the page's column of what to take."""
    lines = re.findall(r"^\| (.+?) \|", PAGES["docs/choosing.md"], re.MULTILINE)
    taken = re.sub("[ -]", "_", " ".join(lines).lower())
    assert [method for method in conf_files.explained() if method not in taken] == []


def test_what_a_finished_study_names_next_composes(run_of_nothing, capsys, monkeypatch):
    monkeypatch.setenv("SALIENCY_BENCH_PROGRAM", "./scripts/bench")
    results._say_what_next(run_of_nothing)
    said, *named = capsys.readouterr().out.splitlines()
    assert said == "Next:" and len(named) == 3
    for line in named:
        program, *words = shlex.split(line)
        assert program == "./scripts/bench"
        _compose(words)


def test_what_is_named_next_is_about_the_model_of_the_study(run_of_nothing, capsys):
    run_of_nothing.manifest["command"] = (
        "saliency-bench model=hub 'model.path=my models/a' n_examples=3"
    )
    run_of_nothing.manifest["config"]["model"]["name"] = "hub"
    results._say_what_next(run_of_nothing)
    (line,) = capsys.readouterr().out.splitlines()[1:]
    assert shlex.split(line)[1:] == [
        "explain",
        results.EXAMPLE,
        "model=hub",
        "model.path=my models/a",
    ]


@pytest.fixture
def run_of_nothing(tmp_path):
    from saliency_bench.store.run import Run

    manifest = {"command": "saliency-bench", "config": {"model": {"name": "default"}}}
    return Run(tmp_path, manifest, [], {})


def test_other_commands_start_programs_that_are_there():
    others = [words for _, words in commands() if words[0] not in (*PROGRAMS, "pip")]
    for words in others:
        script = words[1] if words[0] in ("bash", "python") else words[0]
        if words[:2] == ["python", "-m"]:
            folder = ROOT / words[2].replace(".", "/")
            script = str(folder if folder.is_dir() else folder.with_suffix(".py"))
        if not script.startswith("ENVIRONMENTS"):
            assert (ROOT / script).exists(), words


def test_the_configuration_of_a_page_is_read():
    for page, block in blocks("yaml"):
        for entry in yaml.safe_load(block).values():
            assert entry["metric"] in conf_files.names("metric"), page


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_are_there(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", PAGES[page])
    here = [target for target in targets if "://" not in target]
    assert [target for target in here if not (ROOT / page).parent.joinpath(target).exists()] == []


def test_the_site_shows_every_page_once():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    shown = re.findall(r"([\w/]+\.md)$", text, re.MULTILINE)
    there = [name.removeprefix("docs/") for name in PAGES if name.startswith("docs/")]
    there += [f"tutorials/{path.stem}.md" for path in (ROOT / "docs" / "tutorials").glob("*.ipynb")]
    assert sorted(shown) == sorted([*there, "index.md"])


def test_the_readme_is_read_in_two_minutes_and_leads_to_every_page():
    readme = PAGES["README.md"]
    assert len(readme.splitlines()) <= 120
    linked = set(re.findall(r"\]\((docs/\w+\.md)", readme))
    assert linked == {name for name in PAGES if name.startswith("docs/")}


def test_no_command_of_the_pages_is_left_out():
    kinds = set(
        chain.from_iterable(re.findall(r"^```(\w+)$", page, re.M) for page in PAGES.values())
    )
    assert kinds <= {"python", "bash", "yaml"}  # each of which is tested above
