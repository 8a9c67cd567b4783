"""The `gan-mhe` command: the library's commands and the service's.

Exit codes: 0 success, 1 failure, 2 invalid usage or configuration, 130 interrupted. Commands import torch and the
service only when they need them, so that `--help` responds quickly.
"""

import typer

from gan_mhe.cli import runs, scorer, training
from gan_mhe.cli.console import print_error
from gan_mhe.cli.options import FAILURE, USAGE
from gan_mhe.errors import ConfigError, GanMheError
from server.cli import compare, jobs, operator, study

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
):
    app.command()(command)
app.add_typer(scorer.scorer_app, name="scorer")
app.add_typer(operator.keys_app, name="keys")


def main() -> None:
    """Run the command; errors become one message and an exit code."""
    try:
        app()
    except GanMheError as error:
        print_error(f"error: {error}")
        raise SystemExit(USAGE if isinstance(error, ConfigError) else FAILURE) from None


if __name__ == "__main__":
    main()
