import re

import pytest


def test_layers_and_totals(diffkit):
    done = diffkit("summary", "ddpm_cifar")
    assert (done.code, done.err) == (0, "")
    rows = [line.split() for line in done.out.splitlines()]
    total = next(row for row in rows if row and row[0] == "total")
    assert total[1] == "35,746,307"
    flops = int(total[2].replace(",", ""))
    assert flops == sum(int(row[-1].replace(",", "")) for row in rows if len(row) == 5 and row[0] != "layer")
    assert any(row[1:3] == ["Conv2d", "128×32×32"] for row in rows)


def test_a_pipe_gets_whole_lines(diffkit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    out = diffkit("summary", "quickstart").out
    assert re.search(r"^ +total +[\d,]+ +[\d,]+ *$", out, re.MULTILINE)
    assert "…" not in out


def test_memory(diffkit):
    small = ["train.batch_size=8", "sample.batch_size=8", "sample.guidance=1"]
    done = diffkit("summary", "quickstart", *small, "--memory", "--measure", "--device", "cpu")
    assert (done.code, done.err) == (0, "")
    assert "memory at most, cpu: training 8 and sampling 8 images at once" in done.out
    _, table = re.split(r" +MiB +training +sampling *\n", done.out)
    rows = [line.split() for line in table.splitlines()]
    numbers = {" ".join(row[:-2]): [float(cell) for cell in row[-2:]] for row in rows if len(row) > 2}
    predicted, measured, ratio = (numbers.pop(name) for name in ("predicted", "measured", "predicted / measured"))
    assert {"parameters", "optimizer states", "averages", "saved for the backward pass", "workspace"} <= numbers.keys()
    for job in (0, 1):
        assert sum(part[job] for part in numbers.values()) == pytest.approx(predicted[job], abs=0.4)
        assert ratio[job] == pytest.approx(predicted[job] / measured[job], abs=0.02)


def test_what_does_not_fit_is_predicted_and_not_measured(diffkit, monkeypatch):
    monkeypatch.setattr("diffkit.benchmarking.memory.free_memory", lambda device: 30 * 2**20)
    done = diffkit("summary", "quickstart", "--memory", "--measure", "--device", "cpu")
    assert done.code == 2
    (needed,) = re.findall(r"^ *predicted +([\d.]+)", done.out, re.MULTILINE)
    assert "measured" not in done.out
    message = f"--measure: training needs {needed} MiB, and 30.0 MiB are free: lower train.device_batch_size"
    assert done.err == f"Error: {message}\n"


def test_measuring_without_predicting(diffkit):
    done = diffkit("summary", "quickstart", "--measure")
    assert (done.code, done.err) == (2, "Error: --measure: needs --memory\n")


@pytest.mark.parametrize("command", ["summary", "fill", "validate"])
def test_a_mistake(diffkit, command):
    done = diffkit(command, "quickstart", "seed=-1")
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith(": 1 problem\n  seed = -1\n    should be greater than or equal to 0\n")
