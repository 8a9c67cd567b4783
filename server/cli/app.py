"""The `gan-mhe` command: the library's commands and the service's.

Exit codes: 0 success, 1 failure, 2 invalid usage or configuration, 130 interrupted. Commands import torch and the
service only when they need them, so that `--help` responds quickly.
"""

import typer

from gan_mhe.cli import runs, scorer, training
from gan_mhe.cli.console import print_error
from gan_mhe.cli.options import FAILURE, USAGE
from gan_mhe.errors import ConfigError, GanMheError
from gan_mhe.streams import Output, protected, reason_of
from server.cli import compare, jobs, operator, study, upkeep

app = typer.Typer(
    help="Train GANs with hyperspherically regularized discriminators, and compare them fairly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (
    training.train,
    training.sweep,
    study.study,
    runs.sample,
    runs.score,
    compare.compare,
    runs.info,
    runs.metrics,
    runs.variants,
    operator.serve,
    *jobs.COMMANDS,
    *upkeep.COMMANDS,
):
    app.command()(command)
app.add_typer(scorer.scorer_app, name="scorer")
app.add_typer(operator.keys_app, name="keys")
app.add_typer(upkeep.trash_app, name="trash")


def main() -> None:
    """Run the command; errors become one message and an exit code."""
    with protected() as output:
        code = _run(output)
        output.flush()
        if not code and output.problem is not None and not output.optional:
            code = FAILURE
            if not isinstance(output.problem, BrokenPipeError):  # a reader that went away asked for no more
                print_error(f"error: cannot write to standard output: {reason_of(output.problem)}")
    raise SystemExit(code)


def _run(output: Output) -> int:
    try:
        app()
    except SystemExit as end:
        return int(end.code or 0)
    except GanMheError as error:
        print_error(f"error: {error}")
        return USAGE if isinstance(error, ConfigError) else FAILURE
    except (OSError, ValueError) as error:
        if error is output.problem:
            return 0  # the caller reports it
        if not isinstance(error, OSError) or error.filename is None:
            raise
        print_error(f"error: cannot use {error.filename}: {error.strerror}")
        return FAILURE
    return 0


if __name__ == "__main__":
    main()
