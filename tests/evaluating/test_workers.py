"""Several processes find together what one finds alone."""

import json

import pytest
import torch

from diffkit.cli.main import run
from diffkit.distributed import Workers

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

COMMON = ["--count", "11", "--batch-size", "3", "--reference", "40", "--features", "pixels"]
METRICS = ["--metric", "fid", "--metric", "kid", "--metric", '{kind="nll", count=5, steps=4}']


def test_one_alone_needs_nobody():
    with Workers.joined() as workers:
        assert workers == Workers(0, 1)
        assert workers.is_first
        assert workers.share([1, 2, 3]) == [1, 2, 3]
        assert workers.from_first(b"a") == b"a"
        assert workers.gather(b"a") == [b"a"]
        assert workers.device("auto") == "auto"
        with workers.first_goes_first():
            pass


def test_what_they_say_to_each_other(tmp_path, together):
    def job():
        with Workers.joined() as workers:
            with workers.first_goes_first():
                order = len(list(tmp_path.glob("went-*")))
                (tmp_path / f"went-{workers.rank}").touch()
            found = {
                "order": order,
                "share": workers.share(list(range(5))),
                "from_first": workers.from_first(b"first" if workers.is_first else b"other").decode(),
                "nothing": workers.from_first(b"").decode(),
                "gather": [
                    part.decode() for part in workers.gather(b"from %d" % workers.rank if workers.rank != 1 else b"")
                ],
            }
            (tmp_path / f"found-{workers.rank}").write_text(json.dumps(found))

    assert together(3, job) == [0, 0, 0]
    first, second, third = (json.loads((tmp_path / f"found-{rank}").read_text()) for rank in range(3))
    assert (first["order"], second["order"] > 0, third["order"] > 0) == (0, True, True)
    assert [one["share"] for one in (first, second, third)] == [[0, 3], [1, 4], [2]]
    assert {one["from_first"] for one in (first, second, third)} == {"first"}
    assert {one["nothing"] for one in (first, second, third)} == {""}
    assert [one["gather"] for one in (first, second, third)] == [["from 0", "", "from 2"], [], []]


def test_two_evaluate_as_one(here, together):
    run_one = ["evaluate", *COMMON, *METRICS]
    with pytest.raises(SystemExit) as done:
        run([*run_one, "-o", "one.json"])
    assert done.value.code == 0
    assert together(2, lambda: run([*run_one, "-o", "two.json"])) == [0, 0]
    assert (here / "two.json").read_bytes() == (here / "one.json").read_bytes()
    assert "runs/tiny-1: 11 images" in (here / "out-0").read_text()
    assert (here / "out-1").read_text() == (here / "err-1").read_text() == ""
    assert not list(here.rglob("evaluations/*"))


def test_two_sweep_as_one(here, together, monkeypatch):
    monkeypatch.setattr("diffkit.cli.sweep._announce", lambda planned: False)  # no picture
    sweep = ["sweep", "--samplers", "ddim", "--steps", "2,3", *COMMON]
    assert together(2, lambda: run([*sweep, "-o", "two"])) == [0, 0]
    with pytest.raises(SystemExit):
        run([*sweep, "-o", "one"])
    one, two = (json.loads((here / name / "sweep-1.json").read_text()) for name in ("one", "two"))
    assert one["recommended"] == two["recommended"]
    for mine, theirs in zip(one["cells"], two["cells"], strict=True):
        assert (mine["scores"], mine["images"], mine["key"]) == (theirs["scores"], theirs["images"], theirs["key"])
    assert (here / "out-1").read_text() == ""
    assert sorted(file.name for file in (here / "two").iterdir()) == ["cells", "cells.jsonl", "sweep-1.json"]


def test_a_process_takes_its_own_device(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    four = Workers(3, 4)
    assert [four.device(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:3", "cuda:1", "cpu"]
