"""Agreement of maps between noise seeds, between training seeds, and with a model that learnt random labels."""

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

from saliency_bench.experiments.sanity.subjects import (
    Maps,
    Row,
    Subject,
    compared,
    explained,
    settings_of,
)
from saliency_bench.models import loading
from saliency_bench.models.model import Model

#: Hyperparameters of methods that draw.
DRAWS = ("n_samples", "n_rankings")

NOISE, TRAINING, RANDOM_LABELS = "noise seeds", "training seeds", "random labels"

Progress = Callable[[int, int], None]


def stability(subject: Subject, progress: Progress) -> Iterator[Row]:
    """Agreement between noise seeds, for methods that draw, and between training seeds, for the bundled model."""
    yield from _between_noise_seeds(subject, progress)
    if _bundled(subject):
        seeds = subject.config["stability"]["training_seeds"]
        models = {str(seed): _trained(subject, seed) for seed in seeds}
        yield from _pairs(_maps(subject, models, progress), TRAINING, subject.model.name)


def random_labels(subject: Subject, progress: Progress) -> Iterator[Row]:
    """Agreement of the bundled model with models that learnt random labels (Adebayo et al. 2018, section 4)."""
    if not _bundled(subject):
        return
    seeds = subject.config["random_labels"]["training_seeds"]
    runtime = _runtime(subject)
    models = {
        f"random {seed}": loading.load_random_labels(training_seed=seed, **runtime)
        for seed in seeds
    }
    maps = _maps(subject, {"own": subject.model} | models, progress)
    for name in models:
        for row in compared(maps["own"], maps[name]):
            yield {"model": subject.model.name, "case": RANDOM_LABELS, "level": name} | row


def _between_noise_seeds(subject: Subject, progress: Progress) -> Iterator[Row]:
    config, seeds = subject.config, subject.config["stability"]["noise_seeds"]
    settings = settings_of(subject.model, config["methods"], config["seed"])
    names = [name for name, setting in settings.items() if {*DRAWS} & {*setting.hyper}]
    if not names:
        return
    maps: dict[str, Maps] = {}
    for done, seed in enumerate(seeds):
        progress(done, len(seeds))
        settings = settings_of(subject.model, names, seed)
        maps[str(seed)] = explained(subject.model, subject.fixed, settings, subject.budget)
    yield from _pairs(maps, NOISE, subject.model.name)


def _maps(subject: Subject, models: Mapping[str, Model], progress: Progress) -> dict[str, Maps]:
    """Maps of the class that the first model predicts, by every model."""
    maps: dict[str, Maps] = {}
    for done, (name, model) in enumerate(models.items()):
        progress(done, len(models))
        if model is subject.model:
            maps[name] = subject.maps
            continue
        settings = settings_of(model, subject.config["methods"], subject.config["seed"])
        maps[name] = explained(model, subject.fixed, settings, subject.budget)
    return maps


def _pairs(maps: Mapping[str, Maps], case: str, name: str) -> Iterator[Row]:
    for a, b in combinations(maps, 2):
        for row in compared(maps[a], maps[b]):
            yield {"model": name, "case": case, "level": f"{a}, {b}"} | row


def _trained(subject: Subject, seed: int) -> Model:
    if subject.model.facts["training_seed"] == seed:
        return subject.model
    return loading.load_default(training_seed=seed, **_runtime(subject))


def _bundled(subject: Subject) -> bool:
    return subject.model.facts.get("source") == "default"


def _runtime(subject: Subject) -> dict[str, str]:
    runtime: Mapping[str, str] = subject.config["runtime"]
    return {key: runtime[key] for key in ("dtype", "device", "attention")}
