"""A page on a run: what is in it, and that a stranger's run puts nothing else in."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from diffkit import reporting
from diffkit.errors import UserError
from diffkit.plotting.history import MOST_POINTS, PANELS, draw_history
from diffkit.reporting import report
from diffkit.train.loop import train


def pictures(page, kind):
    return [base64.b64decode(found) for found in re.findall(rf'src="data:image/{kind};base64,([^"]*)"', page)]


def test_a_page_on_a_run_needs_no_other_file(tiny, tmp_path):
    folder = tmp_path / "tiny-1"
    train(tiny('callbacks=[{kind="sample_grid", every=6, count=2}]'), folder)
    page = report(folder)
    assert "<h1>tiny-1</h1>" in page
    assert "<td>done</td>" in page and "<td>12 of 12</td>" in page
    assert "step-00000010, step-00000012" in page
    assert "batch_size = 8" in page
    assert pictures(page, "png") == [(folder / f"samples/step-{n:08}.png").read_bytes() for n in (6, 12)]
    assert re.findall("<figcaption>(.*?)</figcaption>", page) == ["step 6", "step 12"]
    (curves,) = pictures(page, r"svg\+xml")
    assert b"<svg" in curves
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []


def test_a_run_that_has_nothing_yet(tmp_path):
    (tmp_path / "recipe.toml").write_text("[train]\nsteps = 3\nbatch_size = 1\n")
    page = report(tmp_path)
    assert "Nothing was logged yet." in page
    assert "<td>0 of 3</td>" in page


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match=r"holds no run: there is no recipe\.toml in it"):
        report(tmp_path)


def test_what_a_stranger_wrote_is_shown_as_text(tmp_path):
    folder = tmp_path / "<script>alert(1)"
    (folder / "samples").mkdir(parents=True)
    (folder / "recipe.toml").write_text('name = "</pre><script>alert(2)</script>"\x1b')
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": "<script>"}\n{"step": 2, "loss": 1.5}\n')
    (folder / "samples/step-<script>.png").write_bytes(b"no picture")
    secret = tmp_path / "secret.png"
    Image.new("L", (2, 2)).save(secret)
    (folder / "samples/step-1.png").symlink_to(secret)
    page = report(folder)
    assert "<script>" not in page and "\x1b" not in page
    assert "<td>1.5</td>" in page
    assert pictures(page, "png") == []


def test_of_many_grids_some_are_shown(tmp_path):
    (tmp_path / "recipe.toml").touch()
    (tmp_path / "samples").mkdir()
    for step in range(1, 21):
        Image.new("L", (step, 1)).save(tmp_path / f"samples/step-{step:08}.png")
    widths = [Image.open(io.BytesIO(content)).width for content in pictures(report(tmp_path), "png")]
    assert widths == [1, 5, 9, 12, 16, 20]


def test_of_a_long_log_a_part_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "MOST_EVENTS", 10)
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(45)))
    assert [event["step"] for event in reporting._some_events(log)] == [0, 8, 16, 24, 32, 40]


def test_every_number_of_a_log_is_in_the_picture(trained):
    logged = json.loads((trained / "metrics.jsonl").read_text().splitlines()[0]).keys() - {"step"}
    assert logged == {name for lines in PANELS.values() for name in lines}


def test_curves_are_means_of_neighbours_and_may_have_gaps():
    events = [{"step": n, "loss": float(n % 2), **({"loss_q2": 2.0} if n > 5 else {})} for n in range(2 * MOST_POINTS)]
    loss, quarters, *others = draw_history(events, "a").axes
    assert np.array_equal(loss.lines[0].get_ydata(), np.full(MOST_POINTS, 0.5))
    (line,) = quarters.lines
    assert line.get_label() == "quarter 2" and line.get_xdata()[0] >= 6
    assert all(not axes.lines for axes in others)
