"""``diffkit likelihood``: what it prints and writes, and every mistake's message."""

import json
import re

import pytest


def numbers(text):
    """The terms of a printed table."""
    return {name: float(mean) for name, mean in re.findall(r"^  (\w+) +([\d.]+) ± [\d.]+$", text, re.MULTILINE)}


def test_the_bound_of_the_newest_run(diffkit, here):
    done = diffkit("likelihood", "--count", "6")
    lines = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert lines[0] == "runs/tiny-1: 6 images of digits, variational bound at 20 times"
    assert lines[1] == "bits per dimension, mean ± standard error"
    terms = numbers(done.out)
    assert list(terms) == ["prior", "KL", "decoder", "total"]
    assert terms["total"] == pytest.approx(terms["prior"] + terms["KL"] + terms["decoder"], abs=2e-4)
    assert lines[-1] == "20 network calls for each image"


def test_the_ode(diffkit, here):
    done = diffkit("likelihood", "runs/tiny-1", "--count", "3", "--method", "ode", "--steps", "4", "--weights", "raw")
    assert done.code == 0
    assert done.out.startswith("runs/tiny-1: 3 images of digits, ODE in 4 steps\n")
    assert list(numbers(done.out)) == ["total"]
    assert done.out.endswith("8 network calls for each image\n")


@pytest.mark.parametrize("method", ["vlb", "ode"])
def test_everything_is_written_and_batches_do_not_matter(diffkit, here, method):
    options = ["likelihood", "--count", "5", "--steps", "3", "--seed", "4", "--method", method]
    assert diffkit(*options, "-o", "a.json", "--batch-size", "2").out.endswith("\na.json\n")
    diffkit(*options, "-o", "b.json")
    first, second = (json.loads((here / name).read_text()) for name in ("a.json", "b.json"))
    assert first["per_image"]["number"] == second["per_image"]["number"]
    assert first["per_image"]["total"] == pytest.approx(second["per_image"]["total"], rel=1e-5)
    assert (first["model"], first["method"], first["seed"], first["images"]) == ("runs/tiny-1", method, 4, 5)
    assert first["data"]["kind"] == "digits"
    assert first["terms"]["total"]["mean"] == pytest.approx(sum(first["per_image"]["total"]) / 5)
    if method == "vlb":
        curves = first["per_time"]
        assert curves["time"] == [19, 10, 0]
        terms = {name: term["mean"] for name, term in first["terms"].items()}
        assert sum(curves["bits"]) == pytest.approx(terms["KL"] + terms["decoder"])
        assert len(curves["x0_mse"]) == len(curves["eps_mse"]) == 3


def test_one_image_has_no_standard_error(diffkit, here):
    done = diffkit("likelihood", "--count", "1", "--steps", "2", "-o", "one.json")
    assert done.code == 0
    assert re.search(r"^  total +[\d.]+$", done.out, re.MULTILINE)
    assert json.loads((here / "one.json").read_text())["terms"]["total"]["standard_error"] is None


def test_a_file_is_not_overwritten(diffkit, here):
    (here / "mine.json").write_text("mine")
    done = diffkit("likelihood", "-o", "mine.json")
    assert (done.code, done.out) == (2, "")
    assert done.err == "Error: mine.json: exists already; --force overwrites it\n"
    assert (here / "mine.json").read_text() == "mine"
    assert diffkit("likelihood", "--count", "1", "--steps", "2", "-o", "mine.json", "--force").code == 0
    assert json.loads((here / "mine.json").read_text())["images"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/tiny-2"], "runs/tiny-2: no such run or checkpoint. Did you mean 'tiny-1'?"),
        (["--steps", "21"], "steps = 21: the process has 20 times, so at most 20 steps can be taken"),
        (["--steps", "1"], "steps = 1: the bound visits the first and the last time: take at least 2"),
        (["--count", "1798"], "count = 1798: there are 1797 images"),
        (["-o", "no/bits.json"], "no/bits.json: there is no folder no"),
        (["--split", "test"], "split = test: the data set 'digits' has no images for testing: use train"),
    ],
)
def test_mistakes(diffkit, here, arguments, message):
    done = diffkit("likelihood", *arguments)
    assert (done.code, done.out, done.err) == (2, "", f"Error: {message}\n")


@pytest.mark.parametrize("arguments", [["--count", "0"], ["--seed", "-1"], ["--method", "exact"], ["--steps", "0"]])
def test_wrong_options_end_with_2(diffkit, here, arguments):
    assert diffkit("likelihood", *arguments).code == 2
