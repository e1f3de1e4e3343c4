"""A method from outside goes through suite, submit, verify and leaderboard, and forged submissions are refused."""

import csv
import importlib.util
import json
import re
import shutil
import sys
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from saliency_bench.attribution import methods
from saliency_bench.attribution.parity import REORDERING
from saliency_bench.cli import config
from saliency_bench.cli import main as cli
from saliency_bench.cli.suite import _overrides
from saliency_bench.core.errors import InputError, StorageError
from saliency_bench.core.rows import Setting
from saliency_bench.report import html
from saliency_bench.store import parquet, schema
from saliency_bench.store import suite as suites
from saliency_bench.store.run import read_run
from saliency_bench.studies import prepare, recompute
from saliency_bench.studies import verify as verifying

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_method"
METHOD = "halfway_gradient"
N_TEXTS = 8


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """The example package as pip leaves it, with its method in the registry."""
    root = tmp_path_factory.mktemp("site-packages")
    shutil.copy(EXAMPLE / f"{METHOD}.py", root)
    project = (EXAMPLE / "pyproject.toml").read_text("utf-8")
    name, version = (
        re.search(rf'^{key} = "(.*)"', project, re.M)[1] for key in ("name", "version")
    )
    info = root / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    point = re.search(rf'^{METHOD} = "(.*)"', project, re.M)[1]
    (info / "entry_points.txt").write_text(f"[saliency_bench.methods]\n{METHOD} = {point}\n")
    with pytest.MonkeyPatch.context() as patch:
        methods.METHODS.names()  # loads what is installed, before this is
        patch.syspath_prepend(root)
        for known in (methods.METHODS._functions, methods.KINDS, methods.ABOUT):
            patch.setitem(known, METHOD, None)
            patch.delitem(known, METHOD)
        spec = importlib.util.find_spec(METHOD)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield root
    sys.modules.pop(METHOD, None)


@pytest.fixture(scope="module")
def small(outside):
    """The suite on its first texts, under a content of its own, and with reports that have no figures."""
    whole = prepare.load_examples
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "load_examples", lambda cfg: whole(cfg)[:N_TEXTS])
        patch.setattr("saliency_bench.report.build.FIGURES", {})
        # Who edits a file while tests run has other code.
        patch.setattr(
            "saliency_bench.store.manifest.code", lambda: {"version": "1", "commit": "a" * 40}
        )
        cfg = config.load(["+suite=v1", "~experiment"])
        texts = [(one.text, one.text_pair) for one in prepare.load_examples(cfg)]
        patch.setitem(suites.CONTENTS, "v1", suites.content("v1", asdict(cfg), texts))
        yield


@pytest.fixture(scope="module")
def submitted(small, folder, tmp_path_factory):
    """The submission of a run of the example's method."""
    root = tmp_path_factory.mktemp("suite")
    words = [f"method=[{METHOD}]", "--config-dir", str(EXAMPLE / "conf")]
    words += ["model=hub", f"model.path={folder}", "runtime.device=cpu", f"out={root / 'run'}"]
    assert cli.main(["suite", "v1", *words]) == 0
    assert cli.main(["submit", str(root / "run"), f"out={root / 'mine'}"]) == 0
    return root / "mine"


def forged(submission, out, edit=lambda tables, documents: None):
    """A copy in which somebody changed tables and documents, and wrote the digests that go with them."""
    shutil.copytree(submission, out)
    tables = {path.stem: pd.read_parquet(path) for path in out.glob("*.parquet")}
    before = {name: table.copy() for name, table in tables.items()}
    documents = {name: json.loads((out / name).read_bytes()) for name in suites.DOCUMENTS}
    edit(tables, documents)
    for name, table in tables.items():
        if not table.equals(before[name]):
            schema = pq.read_schema(out / f"{name}.parquet")
            pq.write_table(pa.Table.from_pandas(table, schema, False), out / f"{name}.parquet")
    for name, value in documents.items():
        (out / name).write_text(json.dumps(value))
    sign(out)
    return out


def sign(out):
    record = json.loads((out / "digests.json").read_bytes())
    for kind in ("files", "documents"):
        for name in record[kind]:
            if (out / name).is_file():
                record[kind][name] = sha256((out / name).read_bytes()).hexdigest()
    (out / "digests.json").write_text(json.dumps(record))


def elsewhere(tables, documents):
    documents["identity.json"]["environment"]["cpu"] = "another"
    documents["manifest.json"]["identity"]["cpu"] = "another"


def shifted(by):
    def edit(tables, documents):
        rows = tables["rows"]
        rows.loc[rows["metric"] == "srg", "value"] += by

    return edit


def verified(capfd, submission, folder, *words):
    """Exit code, output and message of verifying all blocks."""
    code = cli.main(["verify", str(submission), "blocks=99", f"model.path={folder}", *words])
    out, err = capfd.readouterr()
    return code, out, err


def test_the_example_is_short():
    lines = [
        path.read_text("utf-8").splitlines() for path in EXAMPLE.rglob("*.*") if path.is_file()
    ]
    assert sum(map(len, lines)) <= 60


def test_a_submission_is_small_and_holds_what_it_needs(submitted):
    files = {path.name: path.stat().st_size for path in submitted.iterdir()}
    assert set(files) <= {
        *suites.DOCUMENTS,
        "digests.json",
        *(f"{one}.parquet" for one in suites.KEPT),
    }
    assert sum(files.values()) < 5_000_000
    read = suites.read(submitted)
    assert read.content == suites.CONTENTS["v1"]
    code = sha256((EXAMPLE / f"{METHOD}.py").read_bytes()).hexdigest()
    assert read.methods == {METHOD: {"package": "halfway-gradient 1.0", "sha256": code}}
    assert {one["method"] for one in read.run.settings} == {*suites.opponents("v1"), METHOD}


def test_the_same_bytes_come_out_again_wherever_the_model_lies(submitted, folder, tmp_path, capfd):
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    code, out, err = verified(capfd, submitted, moved)
    assert code == 0, err
    assert "A machine like the submission's: the same bytes." in out
    assert f"{N_TEXTS} texts" in out


def test_blocks_are_chosen_by_chance_and_by_a_seed_again(submitted, folder, capfd):
    def blocks(seed):
        words = [str(submitted), "blocks=2", f"seed={seed}", f"model.path={folder}"]
        assert cli.main(["verify", *words]) == 0
        return re.search(r"\((.*?)\)", capfd.readouterr().out)[1].split(", ")

    first = blocks(0)
    assert len(first) == 2 and blocks(0) == first
    assert blocks(1) != first


@pytest.mark.parametrize(
    ("by", "machine", "code"),
    [
        (1e-3, None, 3),
        (1e-6, None, 3),
        (1e-3, elsewhere, 3),
        (1e-6, elsewhere, 0),
        (0, elsewhere, 0),
    ],
)
def test_other_numbers_are_seen_by_the_standard_of_the_machine(
    by, machine, code, submitted, folder, tmp_path, capfd
):
    def edit(tables, documents):
        shifted(by)(tables, documents)
        (machine or (lambda *_: None))(tables, documents)

    copy = forged(submitted, tmp_path / "copy", edit)
    got, out, err = verified(capfd, copy, folder)
    assert got == code, err
    assert ("Another machine (cpu (another → " in out) == (machine is not None)
    if code:
        assert ": other numbers came out" in err


def test_other_scores_are_seen_and_not_excused_by_their_order(submitted, folder, tmp_path, capfd):
    def edit(tables, documents):
        elsewhere(tables, documents)
        tables["maps"]["scores"] = [np.array(one)[::-1] for one in tables["maps"]["scores"]]

    code, _, err = verified(capfd, forged(submitted, tmp_path / "copy", edit), folder)
    assert code == 3 and "a score of setting" in err


def mine(documents):
    (key,) = [one["setting_id"] for one in documents["settings.json"] if one["method"] == METHOD]
    return key


def swapped(tables, documents):
    """The two nearest scores of each map in the other order."""
    elsewhere(tables, documents)
    maps = tables["maps"]
    (key,) = [
        one["setting_id"] for one in documents["settings.json"] if one["name"] == "leave_one_out"
    ]
    for place in maps.index[maps["setting_id"] == key]:
        scores = np.array(maps.at[place, "scores"])
        order = [one for one in np.argsort(scores) if maps.at[place, "attributable"][one]]
        near = order[np.argmin(np.diff(scores[order])) :][:2]
        scores[near] = scores[near[::-1]]
        maps.at[place, "scores"] = scores


def recosted(tables, documents):
    elsewhere(tables, documents)
    tables["maps"].loc[tables["maps"]["setting_id"] == mine(documents), "n_gradients"] = 0


def turned(tables, documents):
    elsewhere(tables, documents)
    tables["rows"].loc[tables["rows"]["metric"] == "srg", "higher_is_better"] = False


def of_class(tables, documents):
    elsewhere(tables, documents)
    tables["examples"]["gold"] = 0


@pytest.mark.parametrize("edit", [recosted, turned, of_class])
def test_elsewhere_what_is_no_real_number_must_be_the_same(
    edit, submitted, folder, tmp_path, capfd
):
    code, _, err = verified(capfd, forged(submitted, tmp_path / "copy", edit), folder)
    assert code == 3 and "the tables differ outside scores and values" in err


def test_elsewhere_every_value_is_compared_whatever_the_order(
    submitted, folder, tmp_path, capfd, monkeypatch
):
    """Equal scores whose order rounding could change excuse no value: it is computed from the scores as submitted."""
    monkeypatch.setattr("saliency_bench.studies.recompute.MOST_REORDERED", 1.0)
    monkeypatch.setitem(REORDERING, torch.float32, 10.0)
    monkeypatch.setattr("saliency_bench.studies.recompute.MOST_APART", 10.0)
    monkeypatch.setattr("saliency_bench.studies.recompute.PROBABILITIES", 1e-6)

    def edit(tables, documents):
        elsewhere(tables, documents)
        tables["maps"]["scores"] = [-np.array(one) for one in tables["maps"]["scores"]]

    code, _, err = verified(capfd, forged(submitted, tmp_path / "copy", edit), folder)
    assert code == 3 and re.search("differs most is (srg|comprehensiveness|sufficiency) of", err), (
        err
    )


@pytest.mark.parametrize(
    ("size", "scores"), [(1e-6, 2e-5), (1e-3, 2e-5), (1.0, 2e-5), (50.0, 1e-3)]
)
def test_scores_of_tokens_may_not_differ_by_their_own_size(size, scores):
    """With scores below rounding any order would be within what is allowed."""

    def maps(*values):
        row = {"setting_id": "s", "example_id": "e", "scores": values, "attributable": [True] * 3}
        return pa.Table.from_pylist([row])

    honest = np.array([0.1, 0.5, 1.0]) * size
    allowed = min(scores, size / 100)
    for factor, within in ((0.9, True), (1.1, False)):
        held = honest + np.array([0, 0, factor * allowed])
        apart, reordered, _ = recompute._score_differences(
            {"s": "token"}, 2e-5, maps(*held), maps(*honest)
        )
        assert (apart <= 1) == within and not reordered
    assert (
        recompute._score_differences({"s": "token"}, 2e-5, maps(*honest[::-1]), maps(*honest))[0]
        > 1
    )


def test_near_ties_of_many_maps_in_another_order_do_not_pass(
    submitted, folder, tmp_path, capfd, monkeypatch
):
    monkeypatch.setitem(
        REORDERING, torch.float32, 1.0
    )  # scores and values may differ by all they are
    monkeypatch.setattr("saliency_bench.studies.recompute.MOST_APART", 1.0)
    copy = forged(submitted, tmp_path / "copy", swapped)
    code, _, err = verified(capfd, copy, folder)
    assert code == 3 and "more maps are in another order than rounding explains" in err, err


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "tf32"])
def test_machines_are_not_compared_in_types_that_round_too_much(
    dtype, submitted, folder, tmp_path, capfd, monkeypatch
):
    prepared = verifying.prepare

    def in_dtype(*arguments):
        study = prepared(*arguments)
        runtime = replace(study.config.runtime, dtype=dtype)
        return replace(study, config=replace(study.config, runtime=runtime))

    monkeypatch.setattr(verifying, "prepare", in_dtype)
    code, _, err = verified(capfd, forged(submitted, tmp_path / "copy", elsewhere), folder)
    assert code == 2 and f"was computed in {dtype}" in err and "like the submission's" in err


def another_model(tables, documents):
    for file in ("manifest.json", "identity.json"):
        documents[file]["model"] |= {"name": "<b>other", "weights_sha256": "0" * 64}


def other_code(tables, documents):
    for file, *path in (("identity.json", "environment"), ("manifest.json", "identity")):
        documents[file][path[0]]["code"]["commit"] = "b" * 40


def change(file, value, *path):
    def edit(tables, documents):
        place = documents[file]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (other_code, "was made by other code (commit"),
        (another_model, "explains another model than this one"),
        (change("identity.json", 7, "seed"), "differs in seed"),
        (change("settings.json", "vanilla", 5, "name"), "differs in settings"),
        (change("settings.json", "Oracle", 4, "facts", "entry"), "than they do: facts.entry (Oracle"),
        (change("manifest.json", "0" * 64, "suite", "methods", METHOD, "sha256"), "has other code than that"),
        (change("manifest.json", {}, "suite", "methods"), "which names no package"),
        (change("manifest.json", {"package": "none 1", "sha256": ""}, "suite", "methods", "absent"), "install it"),
        (change("manifest.json", "/etc/passwd", "config", "method", METHOD, "path"), "names a file"),
        (change("manifest.json", "vector:/etc/x.npy", "config", "method", METHOD, "baseline"), "names a file"),
    ],
    ids=["code", "model", "seed", "name of a setting", "label", "method", "unnamed method", "absent method", "path", "vector"],
)  # fmt: skip
def test_verification_refuses_other_code_models_and_files_in_a_sentence(
    edit, said, submitted, folder, tmp_path, capfd
):
    code, _, err = verified(capfd, forged(submitted, tmp_path / "copy", edit), folder)
    assert code == 2 and said in err, err
    assert err.splitlines()[-1].count(". ") <= 1


def test_verification_prints_no_escape_sequence(submitted, folder, tmp_path, capfd):
    def edit(tables, documents):
        for file, key in (("manifest.json", "identity"), ("identity.json", "environment")):
            documents[file][key]["cpu"] = "\x1b[2Jquick"

    code, out, err = verified(capfd, forged(submitted, tmp_path / "copy", edit), folder)
    assert code == 0, err
    assert "quick" in out and "\x1b" not in out + err


def test_a_model_is_loaded_from_where_the_user_says_alone(submitted, folder, tmp_path, capfd):
    assert cli.main(["verify", str(submitted)]) == 2
    assert "model.path=FOLDER_OR_HUB_ID" in capfd.readouterr().err
    assert cli.main(["verify", str(submitted), "model.path=x", "model.adapter=y", "blocks=0"]) == 2
    assert "blocks=0" in capfd.readouterr().err


def test_an_installed_method_without_a_file_is_selected_by_its_name(outside):
    words = [f"method=[{METHOD},vanilla,attnlrp]", f"method.{METHOD}.reduction=sum"]
    found = _overrides("v1", words)
    own = ",".join(suites.opponents("v1"))
    assert found == [f"method=[{own},attnlrp]", f"method.{METHOD}.method={METHOD}", words[1]]
    with_file = [words[0], "--config-dir", str(EXAMPLE / "conf")]
    assert _overrides("v1", with_file) == [f"method=[{own},{METHOD},attnlrp]", *with_file[1:]]


# --- forged submissions ---


def rows_edit(change):
    return lambda tables, documents: tables.update(rows=change(tables["rows"]))


def with_value(value):
    def edit(tables, documents):
        tables["rows"].loc[0, "value"] = value
        tables["rows"].loc[0, "status"] = "ok"

    return edit


def without_opponent(tables, documents):
    settings = documents["settings.json"]
    (gone,) = [one["setting_id"] for one in settings if one["name"] == "leave_one_out"]
    documents["settings.json"] = [one for one in settings if one["setting_id"] != gone]
    documents["identity.json"]["settings"].remove(gone)
    tables["rows"] = tables["rows"][tables["rows"]["setting_id"] != gone]


def own_removal(tables, documents):
    """The removal that suits, as if the model lacked the others."""
    documents["manifest.json"][suites.REQUESTED_REMOVAL] = ["mask", "attention"]
    documents["manifest.json"]["config"]["evaluation"]["removal"] = ["attention"]
    tables["rows"] = tables["rows"][tables["rows"]["removal"] != "mask"]


def no_removal(tables, documents):
    own_removal(tables, documents)
    for file in ("manifest.json", "identity.json"):
        documents[file]["config"]["evaluation"]["removal"] = []
    tables["rows"] = tables["rows"][tables["rows"]["removal"].isna()]


def null_scores(tables, documents):
    tables["maps"].at[0, "scores"] = None


def null_score(tables, documents):
    tables["maps"].at[0, "scores"] = [None, *tables["maps"].at[0, "scores"][1:]]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (with_value(np.nan), "a value belongs to status ok"),
        (with_value(np.inf), "not finite"),
        (rows_edit(lambda rows: rows.iloc[1:]), "1 are missing"),
        (rows_edit(lambda rows: rows[rows["removal"] != "attention"]), "not those of the suite"),
        (rows_edit(lambda rows: pd.concat([rows, rows.head(1)])), "not those of the suite"),
        (rows_edit(lambda rows: rows.assign(cell_id="other")), "another model, data or seed"),
        (rows_edit(lambda rows: rows.assign(metric="best")), "not those of the suite"),
        (change("manifest.json", "other", "model", "name"), "do not have the same model"),
        (change("manifest.json", "sst2", "data", "dataset"), "do not have the same data"),
        (change("manifest.json", "fast", "identity", "cpu"), "do not have the same machine"),
        (change("identity.json", "b" * 40, "environment", "code", "commit"), "do not have the same machine"),
        (own_removal, "do not have the same evaluation"),
        (no_removal, "not those of the suite"),
        (change("manifest.json", 1, "config", "method", METHOD), "config.method.halfway_gradient: expected an object"),
        (change("manifest.json", "here", "config", "runtime"), "config.runtime: expected an object"),
        (null_scores, "scores of a map are null"),
        (null_score, "scores of a map are null"),
        (without_opponent, "lacks the suite's method leave_one_out"),
        (change("manifest.json", 50, "config", "n_examples"), "a number or a text was changed"),
        (change("manifest.json", "quickstart", "config", "name"), "is not a run of a suite"),
        (change("manifest.json", {METHOD: 1}, "suite", "methods"), "expected suite with its name"),
        (change("settings.json", 2, 0, "seed"), "has the hyperparameters of"),
        (lambda tables, _: tables["examples"].update({"text": ["an easy text"]}), "a text was changed"),
    ],
    ids=["nan", "infinite", "missing", "one removal", "twice", "cell", "metric", "shown model", "shown data", "shown machine", "shown code", "own removal", "no removal", "entry", "runtime",
         "null scores", "null score", "opponent", "number", "name",
         "packages", "setting", "text"],
)  # fmt: skip
def test_a_forged_submission_with_right_digests_is_refused(edit, said, submitted, tmp_path):
    copy = forged(submitted, tmp_path / "copy", edit)
    with pytest.raises((StorageError, InputError)) as refused:
        suites.read(copy)
    assert said in str(refused.value)


def link(copy):
    (copy / "rows.parquet").unlink()
    (copy / "rows.parquet").symlink_to("/etc/hostname")


def leads_out(copy):
    record = json.loads((copy / "digests.json").read_bytes())
    record["files"]["../../outside.parquet"] = "0" * 64
    (copy / "digests.json").write_text(json.dumps(record))


def names_another_document(copy):
    record = json.loads((copy / "digests.json").read_bytes())
    record["documents"] = {"../manifest.json": "0" * 64}
    (copy / "digests.json").write_text(json.dumps(record))


def bomb(copy):
    """A few kilobytes that unpack to 220 MB."""
    text = pa.repeat(pa.scalar("x" * 200), 1_100_000)
    pq.write_table(
        pa.table({"message": text}),
        copy / "warnings.parquet",
        compression="zstd",
        use_dictionary=False,
    )
    sign(copy)


def repeated(copy, store_schema=False):
    """The same with a dictionary that holds the text once: the file says that it is small."""
    text = pa.DictionaryArray.from_arrays(np.zeros(110_000, np.int32), ["x" * 2000])
    pq.write_table(
        pa.table({"message": text}), copy / "warnings.parquet", store_schema=store_schema
    )
    assert pq.ParquetFile(copy / "warnings.parquet").metadata.row_group(0).total_byte_size < 1e6
    record = json.loads((copy / "digests.json").read_bytes())
    record["files"]["warnings.parquet"] = ""
    (copy / "digests.json").write_text(json.dumps(record))
    sign(copy)


def unlisted(copy):
    """A table of no digest, which would be read."""
    pq.write_table(parquet.schema_of("warnings").empty_table(), copy / "warnings.parquet")
    record = json.loads((copy / "digests.json").read_bytes())
    record["files"].pop("warnings.parquet", None)
    (copy / "digests.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (link, "symbolic link"),
        (leads_out, "outside.parquet"),
        (names_another_document, "does not name the digests"),
        (bomb, "would take"),
        (repeated, "would take"),
        (lambda copy: repeated(copy, store_schema=True), "of type dictionary"),
        (unlisted, "does not name the digest of warnings.parquet"),
        (lambda copy: (copy / "run.py").write_text("import os"), "'run.py', which no submission has"),
        (lambda copy: (copy / "parts").mkdir(), "'parts', which no submission has"),
        (lambda copy: (copy / "settings.json").write_text("[" + " " * 6_000_000 + "]"), "at most 5 MB"),
        (lambda copy: (copy / "manifest.json").write_text("{}"), "SHA-256"),
        (lambda copy: (copy / "rows.parquet").write_bytes((copy / "rows.parquet").read_bytes() + b" "), "altered"),
        (lambda copy: ((copy / "maps.parquet").write_bytes(b"PAR1"), sign(copy)), "is not a table"),
        (lambda copy: (copy / "digests.json").unlink(), "is not a submission"),
        (lambda copy: (copy / "digests.json").write_text("[" * 100_000), "digests.json"),
    ],
    ids=["link", "path", "document", "bomb", "dictionary", "dictionaries", "unlisted", "program", "folder", "large", "manifest", "rows", "no table", "none", "deep"],
)  # fmt: skip
def test_a_hostile_folder_is_refused_before_it_is_read(attack, said, submitted, tmp_path):
    copy = Path(shutil.copytree(submitted, tmp_path / "copy"))
    attack(copy)
    with pytest.raises((StorageError, InputError)) as refused:
        suites.read(copy)
    assert said in str(refused.value)


def test_too_many_settings_are_refused_before_and_after_they_are_computed(
    submitted, folder, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(suites, "MOST_SETTINGS", 5)
    with pytest.raises(InputError, match="at most 5 settings, this one 6"):
        suites.read(submitted)
    words = [f"method=[{METHOD}]", "--config-dir", str(EXAMPLE / "conf"), "model=hub"]
    words += [f"model.path={folder}", f"out={tmp_path / 'run'}"]
    assert cli.main(["suite", "v1", *words]) == 2
    assert "suite v1: a submission has at most 5 settings" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


# --- the leaderboard ---


def board(out, *submissions):
    assert cli.main(["leaderboard", *map(str, submissions), f"out={out}"]) == 0
    with (out / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file)), (out / "leaderboard.html").read_text("utf-8")


def test_the_leaderboard_has_every_method_with_its_mean(submitted, tmp_path):
    lines, page = board(tmp_path / "board", submitted)
    run = read_run(submitted)
    rows = run.tables["rows"]
    ids = {one["method"]: one["setting_id"] for one in run.settings}
    assert len(lines) == len(ids) == 6
    (mine,) = [line for line in lines if line["method"] == "Halfway gradient"]
    own = rows[(rows["setting_id"] == ids[METHOD]) & (rows["metric"] == "srg")]
    for column, removal in (("srg", "mask"), ("srg (attention)", "attention")):
        mean = own[own["removal"] == removal]["value"].mean()
        assert float(mine[column]) == pytest.approx(mean, rel=1e-11)  # twelve digits are written
        assert float(mine[f"{column}_low"]) < mean < float(mine[f"{column}_high"])
    seconds = run.tables["timings"].groupby("setting_id")["seconds"].median()
    assert float(mine["time"]) == pytest.approx(seconds[ids[METHOD]] / seconds[ids["vanilla"]])
    assert [line["submission"] for line in lines if line is not mine] == ["the suite"] * 5
    assert [float(line["srg"]) for line in lines] == sorted(
        (float(line["srg"]) for line in lines), reverse=True
    )
    assert mine["n_gradients"] == "1" and mine["content"] == suites.CONTENTS["v1"]
    assert "halfway-gradient 1.0" in page
    assert f"script-src 'sha256-{html.environment().globals['script_hash']}'" in page


def test_the_board_says_how_to_enter_counts_methods_and_explains_no_absent_mark(
    submitted, tmp_path
):
    _, page = board(tmp_path / "board", submitted)
    head, main = page.split("<main>")
    assert "saliency-bench suite v1 method=[YOURS]" in main and "saliency-bench submit DIR" in main
    # Six entries, one of which is random rankings.
    assert (
        "Which of 5 methods explains" in head and "5 methods and random rankings explained" in main
    )
    assert ("Converged:" in main) == ("✗" in main.split("</table>")[0])
    columns = re.findall(r'<th scope="col"[^>]*>([^<]*)', main.split("</thead>")[0])
    assert [name.replace("\xa0", " ").strip() for name in columns[:2]] == ["Method", "SRG ↑"]


def test_a_board_says_what_its_maker_verified_and_no_submission_says_it_itself(
    submitted, folder, tmp_path, capfd
):
    def said(*words):
        lines, _ = board(tmp_path / "board", *words)
        (cell,) = {line["verified"] for line in lines}
        return cell

    record = tmp_path / "verified.jsonl"
    theirs = forged(submitted, tmp_path / "theirs" / "mine", shifted(0.5))
    assert verified(capfd, submitted, folder, f"verified={record}")[0] == 0
    assert re.fullmatch(r"(\d+) of \1 blocks, same bytes", said(submitted, f"verified={record}"))
    assert said(submitted) == "no"
    assert said(theirs, f"verified={record}") == "no"  # of the same name, with other numbers
    assert verified(capfd, theirs, folder, f"verified={record}")[0] == 3
    assert said(theirs, f"verified={record}") == "other numbers came out"
    shutil.copy(record, theirs)
    assert cli.main(["leaderboard", str(theirs), f"verified={theirs / record.name}"]) != 0
    assert "'verified.jsonl', which no submission has" in capfd.readouterr().err


@pytest.mark.parametrize("line", ["{", "[]", "{}", '"x"', "[" * 100_000])
def test_a_record_that_verify_did_not_write_is_refused(line, submitted, tmp_path, capfd):
    record = tmp_path / "record"
    record.write_text(f"{line}\n")
    assert cli.main(["leaderboard", str(submitted), f"verified={record}"]) == 4
    assert "record:1 is no line that saliency-bench verify wrote" in capfd.readouterr().err
    record.unlink()
    assert cli.main(["leaderboard", str(submitted), f"verified={record}"]) == 2


def better(tables, documents):
    """Their method, under the same name and id as ours, and with other numbers."""
    rows = tables["rows"]
    (mine,) = [one["setting_id"] for one in documents["settings.json"] if one["method"] == METHOD]
    rows.loc[(rows["setting_id"] == mine) & (rows["metric"] == "srg"), "value"] += 0.5


def test_two_methods_of_one_name_stand_beside_each_other(submitted, tmp_path):
    theirs = forged(submitted, tmp_path / "theirs", better)
    lines, page = board(tmp_path / "board", submitted, theirs)
    names = [line["method"] for line in lines]
    assert len(lines) == 7 and len(set(names)) == 7
    assert {"Halfway gradient (mine)", "Halfway gradient (theirs)"} <= set(names)
    values = {line["method"]: float(line["srg"]) for line in lines}
    gain = values["Halfway gradient (theirs)"] - values["Halfway gradient (mine)"]
    assert gain == pytest.approx(0.5, abs=1e-9)
    assert "give the same values" in page


def test_differences_of_the_suites_own_methods_are_said(submitted, tmp_path):
    _, page = board(
        tmp_path / "board", submitted, forged(submitted, tmp_path / "theirs", shifted(0.5))
    )
    assert "give values that differ by 0.5 at most" in page


def test_models_have_tables_of_their_own(submitted, tmp_path):
    lines, page = board(
        tmp_path / "board", submitted, forged(submitted, tmp_path / "theirs", another_model)
    )
    assert [line["model"] for line in lines].count("<b>other") == 6 and len(lines) == 12
    assert page.count('<h2 id="board') == 2 and "<b>other" not in page


def failing(tables, documents):
    rows = tables["rows"]
    (mine,) = [one["setting_id"] for one in documents["settings.json"] if one["method"] == METHOD]
    worst = (
        rows[(rows["setting_id"] == mine) & (rows["metric"] == "srg")]
        .sort_values("value")
        .index[:3]
    )
    rows.loc[worst, ["value", "status", "reason"]] = [None, "failed", "too hard"]


def by_method(lines):
    return {line["method"]: line for line in lines}


def test_a_failed_text_counts_as_chance_and_is_seen(submitted, tmp_path):
    """Who fails on the texts that go badly has no higher mean, and nobody else's numbers move by it."""
    whole, _ = board(tmp_path / "whole", submitted)
    lines, page = board(tmp_path / "board", forged(submitted, tmp_path / "theirs", failing))
    before, after = by_method(whole), by_method(lines)
    assert {name for name, line in after.items() if line["missing"] != "0"} == {"Halfway gradient"}
    run = read_run(tmp_path / "theirs")
    rows = run.tables["rows"][lambda rows: rows["metric"] == "srg"]
    (key,) = [one["setting_id"] for one in run.settings if one["method"] == METHOD]
    own = rows[rows["setting_id"] == key]
    assert (
        int(after["Halfway gradient"]["missing"])
        == own[own["status"] != "ok"]["example_id"].nunique()
    )
    mean = own[own["removal"] == "mask"]["value"].fillna(0).mean()
    assert float(after["Halfway gradient"]["srg"]) == pytest.approx(mean, rel=1e-11)
    assert "counts as 0, which is chance" in page
    for name in before.keys() - {"Halfway gradient"}:
        assert after[name]["srg"] == before[name]["srg"]


def test_ranks_are_over_all_texts_whoever_fails(submitted, tmp_path, monkeypatch):
    monkeypatch.setattr("saliency_bench.report.analysis.N_EXAMPLES_FOR_CLAIMS", N_TEXTS)
    lines, _ = board(tmp_path / "board", forged(submitted, tmp_path / "theirs", failing))
    run = read_run(tmp_path / "theirs")
    rows = run.tables["rows"][lambda rows: (rows["metric"] == "srg") & (rows["removal"] == "mask")]
    values = rows.pivot(index="example_id", columns="setting_id", values="value").fillna(0.0)
    ranks = values.rank(axis=1, ascending=False).mean()
    expected = sorted(ranks[one["setting_id"]] for one in run.settings)
    assert sorted(float(line["rank"]) for line in lines) == pytest.approx(expected)
    assert all(line["group"] for line in lines)


def test_a_csv_line_has_its_numbers_under_their_own_heads(submitted, tmp_path):
    """A second model whose submission has fewer ways of removing, and a failure on one alone."""

    def fewer(tables, documents):
        another_model(tables, documents)
        failing(tables, documents)
        tables["rows"] = tables["rows"][tables["rows"]["removal"] != "attention"]
        for file in ("manifest.json", "identity.json"):
            documents[file]["config"]["evaluation"]["removal"] = ["mask"]
        documents["manifest.json"][suites.REQUESTED_REMOVAL] = ["mask", "attention"]

    lines, _ = board(tmp_path / "board", submitted, forged(submitted, tmp_path / "theirs", fewer))
    alone = {}
    for name, folder in (("mine", submitted), ("theirs", tmp_path / "theirs")):
        alone[name], _ = board(tmp_path / name / "board", folder)
    for line, expected in zip(lines, alone["mine"] + alone["theirs"], strict=True):
        assert {key: value for key, value in line.items() if value} == {
            key: value for key, value in expected.items() if value
        }
        assert (line["srg (attention)"] == "") == (line["model"] == "<b>other")


def swept(tables, documents):
    """A second setting of the same entry, as if a list had been given."""
    (setting,) = [one for one in documents["settings.json"] if one["method"] == METHOD]
    other = setting | {"reduction": "l1"}
    hyper = {
        key: value
        for key, value in other.items()
        if key not in (*schema.SETTING, "setting_id", "facts")
    }
    other["setting_id"] = Setting(**{key: other[key] for key in schema.SETTING}, hyper=hyper).id
    documents["settings.json"].append(other)
    documents["identity.json"]["settings"].append(other["setting_id"])
    for name in ("rows", "maps", "timings"):
        more = tables[name][tables[name]["setting_id"] == setting["setting_id"]]
        tables[name] = pd.concat([tables[name], more.assign(setting_id=other["setting_id"])])


def test_settings_of_a_swept_method_are_told_apart(submitted, tmp_path):
    copy = forged(submitted, tmp_path / "theirs", swept)
    lines, _ = board(tmp_path / "board", copy)
    names = [line["method"] for line in lines]
    assert len(names) == len(set(names)) == 7
    assert {"Halfway gradient (reduction=l1)"} < {name for name in names if "Halfway" in name}
    both, _ = board(tmp_path / "both", submitted, copy)
    names = [line["method"] for line in both if "Halfway" in line["method"]]
    assert len(set(names)) == 3 and "Halfway gradient (mine)" in names
    assert all("(theirs)" in name and "reduction=" in name for name in names if "mine" not in name)


def first_decides(tables, documents):
    """A first folder whose manifest says more than a suite has."""
    opponents = {one["name"]: one["setting_id"] for one in documents["settings.json"]}
    best = {"vanilla": {"setting_id": opponents["random"]}, "leave_one_out": {"setting_id": "x"}}
    documents["manifest.json"]["chosen"] = {"best": best}


def test_no_manifest_decides_for_the_page(submitted, tmp_path):
    before, _ = board(tmp_path / "before", submitted)
    after, _ = board(tmp_path / "after", forged(submitted, tmp_path / "b" / "mine", first_decides))
    assert before == after


def lower_is_better(tables, documents):
    tables["rows"].loc[tables["rows"]["metric"] == "srg", "higher_is_better"] = False


def other_opponent(tables, documents):
    """Another number of steps of an opponent, under its name."""
    (one,) = [o for o in documents["settings.json"] if o["name"] == "random"]
    before, one["seed"] = one["setting_id"], 7
    hyper = {
        key: value
        for key, value in one.items()
        if key not in (*schema.SETTING, "setting_id", "facts")
    }
    one["setting_id"] = Setting(**{key: one[key] for key in schema.SETTING}, hyper=hyper).id
    place = documents["identity.json"]["settings"].index(before)
    documents["identity.json"]["settings"][place] = one["setting_id"]
    for table in tables.values():
        if "setting_id" in table:
            table["setting_id"] = table["setting_id"].replace(before, one["setting_id"])


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lower_is_better, "metrics and ways of removing"),
        (other_opponent, "the opponents' settings"),
    ],
)
def test_submissions_with_other_fixed_parts_share_no_board(edit, said, submitted, tmp_path, capfd):
    theirs = forged(submitted, tmp_path / "theirs", edit)
    assert cli.main(["leaderboard", str(theirs), str(submitted), f"out={tmp_path / 'board'}"]) == 2
    err = capfd.readouterr().err
    assert f"differ in {said}" in err and "theirs" in err


def test_one_metric_has_one_direction(submitted, tmp_path):
    def edit(tables, documents):
        rows = tables["rows"]
        rows.loc[rows.index[rows["metric"] == "srg"][0], "higher_is_better"] = False

    with pytest.raises(StorageError, match="several units or directions"):
        suites.read(forged(submitted, tmp_path / "copy", edit))


def opponent_failing(tables, documents):
    rows = tables["rows"]
    place = rows.index[(rows["setting_id"] != mine(documents)) & (rows["metric"] == "srg")][0]
    rows.loc[place, ["value", "status", "reason"]] = [None, "failed", "too hard"]


def test_an_opponent_that_failed_on_one_side_is_not_called_the_same(submitted, tmp_path):
    theirs = forged(submitted, tmp_path / "theirs", opponent_failing)
    _, page = board(tmp_path / "board", submitted, theirs)
    assert "the same values; values that one submission alone has: 1." in page


def test_the_page_says_where_code_differs(submitted, tmp_path):
    _, alike = board(tmp_path / "alike", submitted, forged(submitted, tmp_path / "a"))
    assert "different code" not in alike
    theirs = forged(submitted, tmp_path / "b", other_code)
    _, page = board(tmp_path / "board", submitted, theirs)
    assert "were made by different code: 1 aaaaaaaa; 1 bbbbbbbb." in page


EVIL = "<script>alert(1)</script>"


def evil_names(tables, documents):
    for setting in documents["settings.json"]:
        if setting["method"] == METHOD:
            setting["facts"]["entry"] = setting["facts"]["label"] = f"=cmd() {EVIL}\x1b[2J"
    documents["manifest.json"]["suite"]["methods"][METHOD]["package"] = f"{EVIL} 1.0"
    for file, key in (("manifest.json", "identity"), ("identity.json", "environment")):
        documents[file]["model"]["name"] = EVIL
        documents[file][key]["cpu"] = EVIL
        documents[file][key]["code"]["version"] = EVIL


def test_names_are_shown_and_never_run(submitted, tmp_path, capsys):
    copy = forged(submitted, tmp_path / f"{EVIL.replace('/', '')}", evil_names)
    lines, page = board(tmp_path / "board", copy)
    assert page.count("<script>") == 1  # our own
    assert "alert(1)" in page and "\x1b[2J" not in page
    assert "\x1b[2J" not in capsys.readouterr().out
    assert any(line["method"].startswith("'=cmd()") for line in lines)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda one, place: [], "takes folders of submissions"),
        (lambda one, place: [one, one], "'mine' would name two entries"),
        (lambda one, place: [place], "is not a submission"),
    ],
)
def test_what_is_no_leaderboard_is_refused(make, said, submitted, tmp_path, capfd):
    assert cli.main(["leaderboard", *map(str, make(submitted, tmp_path))]) == 2
    assert said in capfd.readouterr().err


def test_submitting_refuses_what_is_no_run_of_a_suite(submitted, tmp_path, capfd):
    run = submitted.parent / "run"
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["submit", str(run), f"out={tmp_path}"]) == 2
    assert "holds other files" in capfd.readouterr().err
    other = Path(shutil.copytree(run, tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_bytes())
    manifest["config"]["seed"] = 1
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["submit", str(other), f"out={tmp_path / 'out'}"]) == 2
    assert "a number or a text was changed" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_submitting_leaves_nothing_of_an_earlier_or_a_refused_submission(
    submitted, tmp_path, capfd
):
    out = tmp_path / "out"
    shutil.copytree(submitted, out)
    (out / "warnings.parquet").write_bytes(b"earlier")
    run = Path(shutil.copytree(submitted.parent / "run", tmp_path / "run"))
    record = json.loads((run / "digests.json").read_bytes())
    for name in ("warnings.parquet", "convergence.parquet"):
        record["files"].pop(name, None)
        (run / name).unlink(missing_ok=True)
    (run / "digests.json").write_text(json.dumps(record))
    assert cli.main(["submit", str(run), f"out={out}"]) == 0
    assert {path.stem for path in out.glob("*.parquet")} == set(suites.NEEDED)
    identity = json.loads((run / "identity.json").read_bytes())
    identity["environment"]["cpu"] = "another"
    (run / "identity.json").write_text(json.dumps(identity))
    capfd.readouterr()
    assert cli.main(["submit", str(run), f"out={out}"]) != 0
    assert "do not have the same machine" in capfd.readouterr().err
    assert not any(out.iterdir())
