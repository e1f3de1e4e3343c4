"""A folder of configuration that could run code runs none, unless its owner is said to be trusted."""

import os
import pickle

import pytest

from saliency_bench.cli import compose
from saliency_bench.cli import main as cli
from saliency_bench.cli.config_trust import FLAG

CALL = "_target_: logging.FileHandler\n{0}filename: {1}\n"


def callback(sentinel, key="hydra", target="_target_"):
    return (
        f"# @package _global_\nname: mine\n{key}:\n  callbacks:\n    mine:\n"
        f"      {target}: logging.FileHandler\n      filename: {sentinel}\n"
    )


#: What stands in the folder: files by name.
HOSTILE = {
    "callbacks of Hydra": lambda s: {"experiment/own.yaml": callback(s)},
    "the same in quotes": lambda s: {"experiment/own.yaml": callback(s, '"hydra"')},
    "the same, escaped": lambda s: {"experiment/own.yaml": callback(s, '"h\\u0079dra"')},
    "the target escaped": lambda s: {
        "experiment/own.yaml": callback(s, target='"\\x5ftarget_"').replace("hydra", "extra")
    },
    "a package of Hydra's": lambda s: {
        "experiment/own.yaml": f"# @package hydra.callbacks.mine\n{CALL.format('', s)}"
    },
    "a group of Hydra's": lambda s: {
        "experiment/own.yaml": "# @package _global_\ndefaults:\n  - override /hydra/mine: own\n",
        "hydra/mine/own.yaml": CALL.format("", s),
    },
    "a file of Hydra's alone": lambda s: {"hydra/callbacks/own.yaml": CALL.format("", s)},
    "a search path": lambda s: {
        "experiment/own.yaml": "# @package _global_\nhydra:\n  searchpath: [file:///elsewhere]\n"
    },
    "logging by a factory": lambda s: {
        "experiment/own.yaml": "# @package _global_\nhydra:\n  job_logging:\n    version: 1\n    handlers:\n"
        f"      mine: {{'()': logging.FileHandler, filename: {s}}}\n    root: {{handlers: [mine]}}\n"
    },
    "a target in a method": lambda s: {
        "method/own.yaml": "own:\n  method: vanilla\n  _target_: logging.FileHandler\n"
    },
    "a target in a list": lambda s: {"method/own.yaml": "own: [{_target_: os.mkdir}]\n"},
    "an alias of one": lambda s: {"method/own.yaml": "a: &x {_target_: os.mkdir}\nown: *x\n"},
    "an object of Python": lambda s: {
        "experiment/own.yaml": f"name: !!python/object/apply:os.mkdir ['{s}']\n"
    },
    "a tag of one's own": lambda s: {"experiment/own.yaml": "name: !mine x\n"},
    "the environment": lambda s: {
        "experiment/own.yaml": "# @package _global_\nname: ${oc.env:HOME}\n"
    },
    "a resolver in a resolver": lambda s: {
        "experiment/own.yaml": "# @package _global_\nname: ${oc.decode:${oc.env:HOME}}\n"
    },
    "no YAML": lambda s: {"experiment/own.yaml": "a: [1\n"},
    "no text": lambda s: {"experiment/own.yaml": b"\xff\xfe\x00"},
    "a depth of ten thousand": lambda s: {"experiment/own.yaml": "[" * 10_000},
}


def laughs(levels, width):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


#: What is no configuration, and what the message says beside the file's name.
MISSHAPEN = {
    "a billion laughs": ({"own": laughs(10, 10)}, "90 aliases"),
    "fewer by the line": ({"own": laughs(40, 2)}, "78 aliases"),
    "a byte order mark": ({"own": "\ufeffname: own\n"}, "byte order mark"),
    "a list": ({"own": "- a\n- b\n"}, "got a list"),
    "a word": ({"own": "word\n"}, "got one value"),
    "itself": ({"own": "defaults:\n  - own\n"}, "lead back to itself"),
    "itself by its place": ({"own": "defaults:\n  - /experiment/own\n"}, "lead back to itself"),
    "a circle": (
        {"own": "defaults:\n  - other\n", "other": "defaults:\n  - own\n"},
        "lead back to itself",
    ),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", MISSHAPEN)
def test_what_is_no_configuration_is_refused_at_once_by_its_file(kind, outside, capfd):
    files, said = MISSHAPEN[kind]
    head = "" if "byte" in said else "# @package _global_\n"
    written(
        outside / "mine", {f"experiment/{name}.yaml": head + text for name, text in files.items()}
    )
    assert cli.main(["--config-dir", str(outside / "mine"), "experiment=own", "out=run"]) == 2
    err = capfd.readouterr().err
    assert said in err and "experiment/o" in err and err.count("\n") == 1
    assert sorted(path.name for path in outside.iterdir()) == ["mine"]


def test_few_aliases_are_taken(outside, monkeypatch):
    studies = []
    monkeypatch.setattr(compose, "_study", lambda node, *_: studies.append(node.seed))
    text = "# @package _global_\nseed: &n 7\nn_examples: *n\n"
    written(outside / "mine", {"experiment/own.yaml": text})
    assert cli.main(["--config-dir", str(outside / "mine"), "experiment=own"]) == 0
    assert studies == [7]


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A place to stand in, and a study that would write there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("option", ["--config-dir", "-cd", "--config-d", "--config-path", "-cp"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_folder_that_could_run_code_is_refused_before_it_does(
    kind, option, outside, capfd, record_property
):
    sentinel = outside / "sentinel"
    written(outside / "mine", HOSTILE[kind](sentinel))
    assert cli.main([option, str(outside / "mine"), "experiment=own", "out=run"]) == 2
    said = capfd.readouterr().err
    assert FLAG in said and said.count("\n") == 1
    assert not sentinel.exists()
    assert sorted(path.name for path in outside.iterdir()) == ["mine"]
    record_property("faults: a folder of configuration that could run code", 1)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of the open sentinel
def test_it_would_have_run(outside, monkeypatch):
    """The sentinel is made where the owner is said to be trusted, so that the law above can fail."""
    sentinel = outside / "sentinel"
    written(outside / "mine", HOSTILE["callbacks of Hydra"](sentinel))
    monkeypatch.setattr(compose, "_study", lambda *_: None)
    cli.main(["--config-dir", str(outside / "mine"), FLAG, "experiment=own"])
    assert sentinel.exists()


def test_a_folder_of_ones_own_is_data(outside, monkeypatch):
    studies = []
    monkeypatch.setattr(
        compose, "_study", lambda node, words, _: studies.append((node.name, words))
    )
    text = (
        "# @package _global_\n# Mine: saliency-bench experiment=own\nname: own-${seed}\nseed: 7\n"
    )
    written(outside / "mine", {"experiment/own.yaml": text})
    words = ["--config-dir", str(outside / "mine"), "experiment=own"]
    assert cli.main(words) == 0
    assert studies == [("own-7", words)]


def test_a_folder_that_others_can_write_is_refused(outside, capfd):
    written(outside / "mine", {"experiment/own.yaml": "# @package _global_\nname: own\n"})
    for path in (outside / "mine", outside / "mine" / "experiment" / "own.yaml"):
        mode = path.stat().st_mode
        path.chmod(mode | 0o002)
        assert cli.main(["--config-dir", str(outside / "mine"), "experiment=own"]) == 2
        assert f"every user can write {path}" in capfd.readouterr().err
        path.chmod(mode)


def test_a_folder_of_another_user_is_refused(outside, capfd, monkeypatch):
    written(outside / "mine", {"experiment/own.yaml": "# @package _global_\nname: own\n"})
    if os.geteuid() == 0:
        os.chown(outside / "mine" / "experiment" / "own.yaml", 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cli.main(["--config-dir", str(outside / "mine"), "experiment=own"]) == 2
    assert "belongs to another user" in capfd.readouterr().err


def test_what_a_link_leads_to_is_looked_into(outside, capfd):
    written(outside / "theirs", HOSTILE["callbacks of Hydra"](outside / "sentinel"))
    (outside / "mine").mkdir()
    (outside / "mine" / "experiment").symlink_to(outside / "theirs" / "experiment")
    (outside / "mine" / "round").symlink_to(outside / "mine")
    assert cli.main(["--config-dir", str(outside / "mine"), "experiment=own"]) == 2
    assert FLAG in capfd.readouterr().err
    assert not (outside / "sentinel").exists()


@pytest.mark.parametrize("word", ["hydra.searchpath=[file://mine]", "+hydra.searchpath=[pkg://x]"])
def test_search_paths_need_trust_too(word, outside, capfd):
    assert cli.main([word, "experiment=own"]) == 2
    assert FLAG in capfd.readouterr().err


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("option", ["--experimental-rerun", "--experimental-r", "--exp"])
def test_no_pickle_is_loaded_however_it_is_asked_for(option, outside, capfd):
    (outside / "job.pickle").write_bytes(pickle.dumps(Touch(outside / "sentinel")))
    for words in ([option, str(outside / "job.pickle")], [f"{option}={outside / 'job.pickle'}"]):
        assert cli.main([*words, FLAG]) == 2
        assert "pickles" in capfd.readouterr().err
    assert not (outside / "sentinel").exists()
