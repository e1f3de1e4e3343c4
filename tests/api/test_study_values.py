"""Whatever a study from Python accepts it can read again; all else is refused before anything is computed."""

import numpy as np
import pytest

import saliency_bench as sb
from saliency_bench.store.run import read_run

pytestmark = pytest.mark.usefixtures("without_type_checks")

TEXTS = ["the film w1 w2", "a film w3", "w4 and w5 the w6 w7"]


@pytest.fixture(scope="module")
def model(folder):
    return sb.load_model(str(folder), device="cpu")


VALUES = [
    {"target": ("LABEL_0", "LABEL_1")},
    {"target": (0, 1)},
    {"target": ("predicted", "runner_up")},
    {"target": ["LABEL_0"]},
    {"target": np.int64(1)},
    {"target": True},
    {"target": 1.0},
    {"target": ["LABEL_0", "LABEL_1"]},
    {"target": ("a|b", "LABEL_1")},
    {"seed": np.int64(3)},
    {"seed": [0, 1]},
    {"output": ["logit"]},
    {"methods": [{"method": "vanilla", "name": 3}]},
    {"methods": {3: {"method": "vanilla"}}},
    {"methods": [{"method": "vanilla", "name": "\ud800"}]},
    {"methods": [{"method": "vanilla", "reduction": ("l2", "l1")}]},
    {"methods": [{"method": "integrated_gradients", "n_steps": np.array([2, 3])}]},
    {"methods": [{"method": "smoothgrad", "n_samples": 4, "noise_std": np.float32(0.1)}]},
    {"metrics": [{"metric": "srg", "name": 3}]},
    {"metrics": [{"metric": "comprehensiveness", "grid": np.array([0.5])}]},
    {"removal": np.array(["mask", "pad"])},
    {"token_budget": np.int64(100)},
    {"n": np.int64(2)},
    {"n": True},
    {"n": 1.5},
]


@pytest.mark.parametrize("values", VALUES, ids=str)
def test_what_a_study_writes_is_read_again_and_what_it_refuses_leaves_nothing(
    model, tmp_path, values
):
    arguments = {"methods": "vanilla", "metrics": "srg", "removal": "mask"} | values
    out = tmp_path / "run"
    try:
        sb.study(model, TEXTS, **arguments, out=out)
    except sb.InputError:
        assert not (out / "settings.json").exists()
    else:
        assert len(read_run(out).tables["rows"])


@pytest.mark.parametrize("pair", [("LABEL_0", "LABEL_1"), (0, 1), ("predicted", "runner_up")])
def test_a_pair_of_classes_is_that_of_attribute_and_of_the_command(model, pair, no_figures):
    result = sb.study(model, TEXTS, "vanilla", "srg", target=pair)
    maps = result.run.tables["maps"].set_index("example_id")
    for map_ in sb.attribute(model, TEXTS, "vanilla", target=pair):
        row = maps.loc[map_.encoded.example_id]
        assert (row["target"], row["against"]) == (map_.target, map_.against)
        assert row["scores"] == pytest.approx(map_.scores, rel=1e-4)
    assert result.report().is_file()
    if isinstance(pair[0], str):
        written = f"contrast:{pair[0]}|{pair[1]}"
        of_command = sb.study(model, TEXTS, "vanilla", "srg", target=written)
        assert of_command.run.manifest["id"] == result.run.manifest["id"]
