"""Signals that ask a process to end: what it had is kept, and it says how to go on.

SIGINT and SIGTERM of a training are in `tests/train/test_kill.py`.
"""

import signal

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

EVALUATE = ["evaluate", "runs/tiny-1", "--count", "12", "--batch-size", "3", "--reference", "40"]
EVALUATE += ["--features", "pixels", "--device", "cpu"]
SWEEP = ["sweep", "runs/tiny-1", "--samplers", "ddim", "--steps", "2,3", "--count", "12", "--reference", "40"]
SWEEP += ["--features", "pixels", "--device", "cpu"]
SAMPLE = ["sample", "runs/tiny-1", "--count", "12", "--batch-size", "3", "--device", "cpu"]


def renamed(event, arguments):
    return event == "os.rename" and "tiny-1" in str(arguments[1])


def log_line(event, arguments):
    """Tell that a training opens its log for the line of a step."""
    return event == "open" and str(arguments[0]).endswith("metrics.jsonl") and arguments[1] == "a"


def test_a_closed_terminal_writes_a_checkpoint(recipe, diffkit, die_at, steps_of, same_run, whole, tmp_path):
    def terminal():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
        die_at(3, log_line, signal.SIGHUP)

    arguments = ["train", recipe(), "--run", "run"]
    done = diffkit(*arguments, first=terminal)
    assert (done.code, steps_of(tmp_path / "run")) == (130, [2, 3])
    assert done.err.endswith("Error: interrupted at step 3; go on with --run run --resume\n")
    assert diffkit(*arguments, "--resume").code == 0
    same_run(tmp_path / "run", whole)


def test_nohup_is_kept(recipe, diffkit, die_at, same_run, whole, tmp_path):
    def nohup():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        die_at(3, log_line, signal.SIGHUP)

    assert diffkit("train", recipe(), "--run", "run", first=nohup).code == 0
    same_run(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (EVALUATE, "Error: interrupted: what was found is kept in runs/tiny-1/evaluations; the same command goes on"),
        (SWEEP, "Error: interrupted: 1 of 2 cells are done and kept in runs/tiny-1/sweeps; the same command goes on"),
    ],
    ids=["evaluate", "sweep"],
)
def test_sigterm_is_taken_for_ctrl_c(here, diffkit, die_at, arguments, said):
    done = diffkit(*arguments, first=lambda: die_at(3, renamed, signal.SIGTERM))
    assert done.code == 130
    assert said in done.err
    assert "Traceback" not in done.err
    assert diffkit(*arguments).code == 0


def test_sigterm_while_sampling(here, diffkit, die_at):
    def third_image(event, arguments):
        return event == "open" and str(arguments[0]).endswith("00002.png")

    done = diffkit(*SAMPLE, first=lambda: die_at(1, third_image, signal.SIGTERM))
    assert (done.code, done.out) == (130, "")
    assert "Traceback" not in done.err
    assert len(list((here / "runs/tiny-1/samples/sample-1").glob("*.png"))) >= 2
