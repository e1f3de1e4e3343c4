"""Verbs that compose a configuration with Hydra: `run` and `estimate`."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from saliency_bench.cli import config, config_trust, hydra_words, messages
from saliency_bench.cli.main import fail
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError
from saliency_bench.studies.progress import importing


def run(words: list[str]) -> int:
    """Runs a study for each configuration that Hydra composes from the words.

    Returns:
        The largest exit code of the studies.
    """
    return composed(words, _start)


def composed(words: list[str], begin: Callable[[config.Config, Sequence[str]], None]) -> int:
    """Calls `begin` with each configuration that Hydra composes from the words, and with its words.

    Returns:
        The largest exit code.
    """
    plain = [word for word in words if word != config_trust.FLAG]
    options, strange = get_args_parser().parse_known_intermixed_args(plain)
    if strange:
        override = strange[0].lstrip("-")
        expected = f"{override}, without dashes" if "=" in override else "KEY=VALUE"
        raise InputError(
            f"unknown option {strange[0]!r}: expected {expected}, or an option of saliency-bench --help."
        )
    config_trust.refuse_code(options, trusts=len(plain) < len(words))
    overrides = hydra_words.as_hydra_reads(options.overrides, sweeps=options.multirun)
    for_hydra = [*_without(plain, options.overrides), *overrides]
    config.register()
    ends: list[Exception | None] = []

    def study(node: DictConfig) -> None:
        # Hydra would announce a failure in its own words before handing it on.
        try:
            ends.append(None)
            _study(node, words, begin)
        except Exception as error:
            ends[-1] = error

    decorate = hydra.main(str(conf_files.folder()), "config", version_base="1.3")
    try:
        with config.refusing_absent_folders(), _as_program(for_hydra):
            decorate(study)()
    except Exception as error:
        if ends:
            raise
        # Before a study begins Hydra only reads the words of the user.
        raise InputError(messages.readable(error, config.Config)) from error
    return max([fail(error) for error in ends if error is not None], default=0)


def _without(words: Sequence[str], others: Sequence[str]) -> list[str]:
    """The words without `others`, which appear among them in the same order."""
    kept, left = [], list(others)
    for word in words:
        if left[:1] == [word]:
            del left[0]
        else:
            kept.append(word)
    return kept


@contextmanager
def _as_program(words: Sequence[str]) -> Iterator[None]:
    """Sets `sys.argv`, which Hydra reads, and has Hydra raise exceptions instead of printing them."""
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["saliency-bench", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _study(
    node: DictConfig, words: Sequence[str], begin: Callable[[config.Config, Sequence[str]], None]
) -> None:
    cfg = config.from_hydra(node)
    job = HydraConfig.get()
    begin(cfg, job.overrides.task if job.mode == RunMode.MULTIRUN else words)


def _start(cfg: config.Config, words: Sequence[str]) -> None:
    with importing():
        from saliency_bench.cli import runs
    runs.start(cfg, ["saliency-bench", *words])


def estimate(words: list[str]) -> None:
    """Prints what a study would cost, by stage, measured on a few of its texts; nothing is written."""
    cfg = config.load([word for word in words if word])
    with importing():
        from saliency_bench.cli import runs
    runs.estimate(cfg)
