"""``diffkit report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffkit.cli.options import Force


def command(
    run: Annotated[Path | None, typer.Argument(help="Run folder; the newest run by default.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="The page; RUN/report.html by default.")
    ] = None,
    force: Force = False,
) -> None:
    """Write all that is known of a run into one page of HTML: state, curves, samples, checkpoints, recipe."""
    from diffkit.cli.common import refuse_existing, write_new
    from diffkit.reporting import report
    from diffkit.storage.runs import newest_run

    folder = run or newest_run()
    file = out or folder / "report.html"
    refuse_existing(file, force=force)
    write_new(file, report(folder), force=force)
    print(file)
