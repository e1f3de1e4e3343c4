"""Computes blocks of a submission again, after checks that it is the same study of the same code (`recompute`)."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from saliency_bench.attribution.describe import described
from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import Setting
from saliency_bench.store.run import IDENTITY, read_json
from saliency_bench.store.suite import Submission, identity_of_model, packages
from saliency_bench.studies.block_tables import pieces_of
from saliency_bench.studies.folder import differences
from saliency_bench.studies.prepare import Study, prepare
from saliency_bench.studies.recompute import TOLERATED, Verified, compare, recompute


def verify(
    submission: Submission,
    config: Any,
    settings: Sequence[Setting],
    n_blocks: int,
    seed: int | None,
    say: Callable[[str, int, int], None],
) -> Verified:
    """Computes random blocks of a submission again.

    Args:
        submission: checked, see `store.suite.read`.
        config: its configuration, checked; with the model where it stands on this machine.
        settings: those of the configuration.
        n_blocks: how many blocks; all where there are fewer.
        seed: of the choice; None: the operating system's randomness, which no submitter can foresee.
        say: called with the stage, the number of steps done and their total.

    Raises:
        InputError: code, model, method, data or settings are not those of the submission.
    """
    folder = submission.run.folder
    held = read_json(folder / IDENTITY, dict)
    threads = (held["environment"].get("computation") or {}).get("threads")
    if isinstance(threads, int) and 0 < threads <= torch.get_num_threads():
        torch.set_num_threads(threads)  # the last digits depend on them
    _refuse_other_methods(submission)
    study = prepare(config, settings, lambda stage: say(stage, 0, 0))
    machine = _machine(held, study, folder)
    _refuse_other_facts(submission, study)
    plan = pieces_of(study)
    stream = random.SystemRandom() if seed is None else random.Random(seed)
    chosen = sorted(stream.sample(range(len(plan)), min(n_blocks, len(plan))))
    return compare(study, recompute(study, folder, [plan[place] for place in chosen], say), machine)


def _machine(held: Mapping[str, Any], study: Study, folder: Any) -> tuple[str, ...]:
    """The facts in which this machine differs from the one of the submission.

    Raises:
        InputError: something else than the machine differs, or rounding in the study's type explains too much.
    """
    here, dtype = study.identity, study.config.runtime.dtype
    there, this = dict(held["environment"]), dict(here["environment"])
    if changed := list(differences(there.pop("code", None), this.pop("code"))):
        raise InputError(
            f"{folder} was made by other code ({', '.join(changed)}): check out or install what made it, and verify again."
        )
    models = identity_of_model(held["model"]), identity_of_model(here["model"])
    if changed := list(differences(*models)):
        raise InputError(f"{folder} explains another model than this one ({', '.join(changed)}).")
    rest = [
        key for key in here if key not in ("environment", "model") and held.get(key) != here[key]
    ]
    if rest:
        raise InputError(
            f"{folder} is of another study than its configuration gives here: it differs in {', '.join(rest)}."
        )
    machine = tuple(differences(there, this))
    if machine and dtype not in TOLERATED:
        raise InputError(
            f"{folder} was computed in {dtype}, in which rounding explains too much to compare machines; this one differs in "
            f"{', '.join(machine[:4])}. Verify on a machine like the submission's."
        )
    return machine


def _refuse_other_facts(submission: Submission, study: Study) -> None:
    """Refuses a submission whose settings have other labels and facts than their methods, since a page shows them."""
    here = [described(setting, study.parts) for setting in study.settings]
    pairs = zip(submission.run.settings, json.loads(json.dumps(here)), strict=True)
    if changed := [key for theirs, ours in pairs for key in differences(theirs, ours)]:
        raise InputError(
            f"{submission.run.folder} says other things of its methods than they do: {', '.join(changed[:4])}."
        )


def _refuse_other_methods(submission: Submission) -> None:
    """Refuses to compute with another package's method of the same name."""
    here = packages(setting["method"] for setting in submission.run.settings)
    for name, facts in submission.methods.items():
        if name not in here:
            raise InputError(
                f"method {name} is of {facts['package']}: install it, and verify again."
            )
    for name, facts in here.items():
        theirs = submission.methods.get(name)
        if theirs is None or facts["sha256"] != theirs["sha256"]:
            raise InputError(
                f"method {name} of {facts['package']} has other code than that of the submission"
                + (
                    f" ({theirs['package']}, SHA-256 {theirs['sha256'][:12]})."
                    if theirs
                    else ", which names no package."
                )
            )
