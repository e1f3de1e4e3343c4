"""Files of the configuration are parsed once, and again when they have changed."""

import os

import yaml

from saliency_bench.core import conf


def test_a_file_is_parsed_once_and_nobody_can_change_what_others_read(tmp_path, monkeypatch):
    parsed = []
    load = yaml.safe_load
    monkeypatch.setattr(yaml, "safe_load", lambda text: parsed.append(1) or load(text))
    path = tmp_path / "a.yaml"
    path.write_text("a: [1]", "utf-8")
    conf._load(path)["a"].append(2)
    assert conf._load(path) == {"a": [1]}
    assert len(parsed) == 1
    path.write_text("a: [3]", "utf-8")
    os.utime(path, ns=(1, 1))
    assert conf._load(path) == {"a": [3]}
    assert len(parsed) == 2
