"""The commands that people type: python -m bula --help lists them."""

import typer

from bula.commands.ask import ask
from bula.commands.deps import deps
from bula.commands.licenses import licenses
from bula.commands.plan import plan
from bula.commands.results import results
from bula.commands.seeds import seeds
from bula.errors import run_app

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
for command in (ask, plan, results, seeds, deps, licenses):
    app.command()(command)


if __name__ == "__main__":
    run_app(app)
