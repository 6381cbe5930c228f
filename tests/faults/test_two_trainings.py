"""Two trainings started on one run folder: the second ends with a message, and the first doesn't notice."""

import signal

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def test_the_second_ends(recipe, command, diffkit, at, wait_until, same_run, whole, tmp_path):
    def at_the_log(event, arguments):
        return event == "open" and str(arguments[0]).endswith("metrics.jsonl") and arguments[1] == "a"

    def held():
        at(3, at_the_log, lambda: signal.raise_signal(signal.SIGSTOP))

    arguments = ["train", recipe(), "--run", "run"]
    first = command(*arguments, first=held)
    wait_until(lambda: (tmp_path / "run/checkpoints/step-00000002").is_dir())
    for more in ([], ["--resume"]):
        second = diffkit(*arguments, *more)
        assert (second.code, second.err) == (2, "Error: run: another process is training in this folder\n")
    first.signal(signal.SIGCONT)
    assert first.ended().code == 0
    same_run(tmp_path / "run", whole)
