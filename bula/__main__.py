"""Run the commands for planning, questions and maintenance.

`python -m bula --help` lists them.
"""

from importlib.util import find_spec

# This comes before all imports of packages, which `make setup` installs.
if None in map(find_spec, ("typer", "pydantic")):
    raise SystemExit(
        "bula: its packages are not installed for this Python. "
        "Run `make setup`, then `. .venv/bin/activate`."
    )

import typer

from bula.commands.answers import answers
from bula.commands.ask import ask
from bula.commands.badges import badges
from bula.commands.chat import chat
from bula.commands.deps import deps
from bula.commands.evaluate import evaluate
from bula.commands.fidelity import fidelity
from bula.commands.graph import graph
from bula.commands.keep_runs import keep_runs
from bula.commands.labels import app as labels
from bula.commands.licenses import licenses
from bula.commands.look import look
from bula.commands.plan import plan
from bula.commands.plots import plots
from bula.commands.preflight import preflight
from bula.commands.profile import profile
from bula.commands.publish import publish
from bula.commands.pull import pull
from bula.commands.release_check import release_check
from bula.commands.results import results
from bula.commands.review import review
from bula.commands.review_kit import review_kit
from bula.commands.schema import schema
from bula.commands.score import score
from bula.commands.seeds import seeds
from bula.commands.serve import serve
from bula.commands.sweep import sweep
from bula.commands.tree import tree
from bula.commands.verify import verify
from bula.commands.verify_remote import verify_remote
from bula.commands.why import why
from bula.errors import run_app

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
COMMANDS = (
    ask,
    evaluate,
    fidelity,
    chat,
    serve,
    look,
    plan,
    plots,
    preflight,
    profile,
    publish,
    results,
    review,
    answers,
    review_kit,
    score,
    why,
    seeds,
    sweep,
    pull,
    verify,
    verify_remote,
    keep_runs,
    release_check,
    schema,
    deps,
    tree,
    graph,
    badges,
    licenses,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(labels, name="labels")


if __name__ == "__main__":
    run_app(app)
