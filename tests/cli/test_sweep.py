"""``diffkit sweep``: what it prints and writes, and every mistake's message."""

import json
import sys

import pytest
from PIL import Image

from diffkit import sweeping

FEW = ["--count", "6", "--reference", "30", "--features", "pixels"]


def test_a_table_a_file_a_picture_and_advice(diffkit, here):
    done = diffkit("sweep", "--samplers", 'heun,{kind="ddim",eta=0.5}', "--steps", "2,4", *FEW)
    assert (done.code, done.err) == (0, "")
    head, against, titles, line, *rows, advice, file, picture = done.out.splitlines()
    assert head == "runs/tiny-1: 6 images each, ema weights, seed 0"
    assert against == "against 30 images of digits, 64 features of pixels"
    assert titles.split() == ["sampler", "steps", "calls", "fid", "kid", "s"]
    assert set(line) == {"─"}
    assert [row.split()[: -7 if "best" in row or "recommended" in row else -6][-2:] for row in rows]
    assert [row[:16].split() for row in rows] == [["ddim,", "eta=0.5"], ["heun"], ["ddim,", "eta=0.5"], ["heun"]]
    assert (file, picture) == ("runs/tiny-1/sweeps/sweep-1.json", "runs/tiny-1/sweeps/sweep-1.png")
    found = json.loads((here / file).read_text())
    assert [(cell["name"], cell["sampling"]["network_calls"]) for cell in found["cells"]] == [
        ("heun in 2 steps", 3),
        ("heun in 4 steps", 7),
        ("ddim, eta=0.5 in 2 steps", 2),
        ("ddim, eta=0.5 in 4 steps", 4),
    ]
    for cell in found["cells"]:
        (row,) = [
            row
            for row in rows
            if row.split()[0].strip(",") == cell["sampling"]["sample"]["sampler"]["kind"]
            and str(cell["sampling"]["sample"]["steps"]) in row.split()[1:3]
        ]
        fid, kid = (cell["scores"][name] for name in ("fid", "kid"))
        assert f"{fid['value']:.4g} ± {fid['standard_error']:.2g}" in row
        assert f"{kid['value']:.4g} ± {kid['standard_error']:.2g}" in row
        assert row.endswith("recommended") == (cell["name"] == found["recommended"]["name"])
    recommended = found["recommended"]
    cost = f"{recommended['network_calls']} network calls"
    assert advice == f"recommended: {recommended['name']} ({cost}): {recommended['reason']}"
    with Image.open(here / picture) as image:
        assert image.size == (1100, 440)


def test_the_same_again_samples_and_writes_nothing(diffkit, here, monkeypatch):
    first = diffkit("sweep", "--samplers", "ddim", "--steps", "2,3", *FEW)
    before = {file: file.read_bytes() for file in (here / "runs/tiny-1/sweeps").rglob("*.*")}
    monkeypatch.setattr(sweeping, "sample_and_see", lambda *_, **__: pytest.fail("sampled again"))
    again = diffkit("sweep", "runs/tiny-1", "--samplers", "ddim", "--steps", "2,3", *FEW)
    assert again.out == first.out
    assert {file: file.read_bytes() for file in (here / "runs/tiny-1/sweeps").rglob("*.*")} == before
    less = diffkit("sweep", "runs/tiny-1", "--samplers", "ddim", "--steps", "2", *FEW)
    assert less.out.splitlines()[-2:] == ["runs/tiny-1/sweeps/sweep-2.json", "runs/tiny-1/sweeps/sweep-2.png"]


def test_settings_weights_and_folder(diffkit, here):
    options = ["--weights", "raw", "--seed", "3", "-o", "found", "--metric", "kid", "--guidance", "1"]
    done = diffkit("sweep", "spacing=linspace", "--samplers", "ddim", "--steps", "3", *FEW, *options)
    assert done.out.startswith("runs/tiny-1: 6 images each, raw weights, seed 3\n")
    assert done.out.splitlines()[-2:] == ["found/sweep-1.json", "found/sweep-1.png"]
    (cell,) = json.loads((here / "found/sweep-1.json").read_text())["cells"]
    assert cell["sampling"]["sample"]["spacing"]["kind"] == "linspace"
    assert list(cell["scores"]) == ["kid"]


def test_both_weights(diffkit, here):
    done = diffkit("sweep", "--weights", "ema,raw", "--samplers", "ddim", "--steps", "3", *FEW)
    assert done.out.startswith("runs/tiny-1: 6 images each, ema and raw weights, seed 0\n")
    titles, _, *rows = done.out.splitlines()[2:6]
    assert titles.split()[:3] == ["sampler", "weights", "steps"]
    assert [row.split()[:3] for row in rows] == [["ddim", "ema", "3"], ["ddim", "raw", "3"]]
    assert rows[0].split()[4:7] != rows[1].split()[4:7]


def test_what_does_not_fit_is_said_before_anything_is_done(diffkit, here, monkeypatch):
    monkeypatch.setattr(sweeping, "sample_and_see", lambda *_, **__: pytest.fail("sampled"))
    done = diffkit("sweep", "--samplers", "ddim,heun", "--steps", "21,30", *FEW)
    assert done.code == 2
    assert done.err.startswith("Error: the model can be sampled in none of these ways:\n  ddim in 21 steps: ")
    monkeypatch.undo()
    monkeypatch.chdir(here)
    done = diffkit("sweep", "--samplers", "ddim,heun", "--steps", "2,21", *FEW)
    assert done.code == 0
    reason = "steps = 21: the process has 20 times, so at most 20 steps can be taken"
    assert done.err == f"Left out: ddim in 21 steps, heun in 21 steps: {reason}\n"


def test_without_a_score_of_known_noise_nothing_is_recommended(diffkit, here):
    done = diffkit("sweep", "--samplers", "ddim", "--steps", "2,3", *FEW, "--metric", "precision_recall")
    *_, advice, file, picture = done.out.splitlines()
    assert advice == "nothing is recommended, as no score's noise is known: add --metric kid"
    assert json.loads((here / file).read_text())["recommended"] is None
    assert (here / picture).is_file()


def test_without_matplotlib_there_is_no_picture(diffkit, here, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("diffkit.plotting")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    done = diffkit("sweep", "--samplers", "ddim", "--steps", "2", *FEW)
    assert done.code == 0
    assert done.err.startswith("Warning: no picture will be drawn: pictures need matplotlib (")
    assert done.out.endswith("runs/tiny-1/sweeps/sweep-1.json\n")


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(diffkit, here, monkeypatch):
    real = sweeping.sample_and_see

    def once(pipeline, settings, *rest, **options):
        if settings.steps == 3:
            raise KeyboardInterrupt
        return real(pipeline, settings, *rest, **options)

    monkeypatch.setattr(sweeping, "sample_and_see", once)
    done = diffkit("sweep", "--samplers", "ddim", "--steps", "2,3", *FEW)
    assert done.code == 130
    assert done.err.startswith(
        "Error: interrupted: 1 of 2 cells are done and kept in runs/tiny-1/sweeps; the same command"
    )
    monkeypatch.setattr(sweeping, "sample_and_see", real)
    assert diffkit("sweep", "--samplers", "ddim", "--steps", "2,3", *FEW).code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/tiny-2"], "runs/tiny-2: no such run or checkpoint. Did you mean 'tiny-1'?"),
        (
            ["--samplers", "ddim,,heun", "--steps", "5,x,0", "--guidance", "1,w", "--weights", "best"],
            "settings of the sweep: 5 problems\n"
            '  --samplers = ""\n    should be kinds of samplers, or their tables, with commas between them\n'
            '  --steps = "x"\n    should be whole numbers of at least 1, with commas between them\n'
            '  --steps = "0"\n    should be whole numbers of at least 1, with commas between them\n'
            '  --guidance = "w"\n    should be numbers, with commas between them\n'
            '  --weights = "best"\n    should be ema, raw or both, with commas between them',
        ),
        (
            ["--samplers", "ddmi", "--steps", "5"],
            "settings of the sweep: 1 problem\n  sampler = \"ddmi\"\n    no sampler is called 'ddmi'. Did you mean",
        ),
    ],
)
def test_mistakes(diffkit, here, arguments, message):
    done = diffkit("sweep", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"Error: {message}")
