import json
import math
from types import SimpleNamespace

from diffkit.callbacks.jsonl import Jsonl


def test_a_number_that_is_not_finite_is_null(tmp_path):
    run = SimpleNamespace(folder=tmp_path)
    metrics = {"loss": 0.5, "grad_norm": math.inf, "update_ratio": math.nan}
    Jsonl().on_train_step(run, 3, metrics)
    Jsonl().on_train_step(run, 4, {})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 3, "loss": 0.5, "grad_norm": None, "update_ratio": None}
    assert "NaN" not in line and "Infinity" not in line


def test_each_line_is_on_the_disk_before_the_run_goes_on(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append((tmp_path / "metrics.jsonl").read_text()))
    Jsonl().on_train_step(SimpleNamespace(folder=tmp_path), 3, {"loss": 0.5})
    assert synced == ['{"step": 3, "loss": 0.5}\n']
