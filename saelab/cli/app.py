"""The `saelab` command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from saelab import __version__
from saelab.cli.console import Reporter, console
from saelab.errors import Interrupted, SaelabError

app = typer.Typer(
    help="Train, measure and browse sparse autoencoders on language-model activations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130

Config = Annotated[Path, typer.Argument(help="a YAML file, or the name of a shipped one (demo)", show_default=False)]
RunPath = Annotated[Path, typer.Argument(help="a run's directory, such as runs/demo", show_default=False)]
Override = Annotated[list[str] | None, typer.Option("-o", "--override", help="section.key=value; repeatable")]
Fresh = Annotated[bool, typer.Option("--fresh", help="start over: drop what this run has written")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")]


def main() -> None:
    """Run the command; errors a user can mend are one paragraph, without a traceback."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"], prog_name="saelab")
    except SystemExit as left:
        if left.code == _INTERRUPTED:  # typer has caught the interrupt and said nothing
            Console(stderr=True).print("stopped; the same command goes on from the last checkpoint")
        raise
    except Interrupted as stopped:
        Console(stderr=True).print(escape(str(stopped)), highlight=False, soft_wrap=True)
        sys.exit(stopped.exit_code)
    except SaelabError as error:
        if debug:
            raise
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"saelab {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _reporter(quiet: bool) -> Reporter:
    return Reporter(console(stderr=quiet))


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))  # noqa: T201


def _load(config: Path, override: list[str] | None) -> Any:
    from saelab.cli.configs import load_run

    return load_run(config, override or [])


def _group(config: Path, override: list[str] | None, reporter: Any) -> Any:
    """What a config describes: one run, or all of a sweep."""
    from saelab.cli.expand import group_directory, swept
    from saelab.cli.group import Group

    loaded = _load(config, override)
    if loaded.compare is not None:
        raise SaelabError("this config compares several SAEs", where=str(config), fix=f"saelab compare {config}")
    return Group(swept(loaded), group_directory(loaded), reporter)


@app.command()
def run(config: Config, override: Override = None, fresh: Fresh = False, as_json: Json = False) -> None:
    """Cache, train, evaluate, index and report: everything a config describes. The same command again goes on.

    The members of a sweep are not indexed; `saelab index` does that for those worth looking at.
    """
    from saelab.cli import runs
    from saelab.cli.group import check_failures
    from saelab.cli.results import explain

    group = _group(config, override, _reporter(as_json))
    documents = group.make(fresh=fresh)
    alone = len(group.runs) == 1
    if as_json:
        _print_json(next(iter(documents.values())) if alone and documents else documents)
    elif not alone:
        console().print(runs.table(runs.list_runs([group.directory.path])))
    elif documents:
        explain(group.runs[0], documents[group.runs[0].config.name])
    check_failures([group])


@app.command()
def cache(config: Config, override: Override = None, as_json: Json = False) -> None:
    """Run the language model over the text and keep its activations."""
    from dataclasses import asdict

    from saelab.activations import inspection
    from saelab.cli.stages import Loaded, Run

    loaded, reporter = _load(config, override), _reporter(as_json)
    store = Run(loaded, reporter, Loaded(loaded.model, reporter), Path(loaded.runs_dir)).cache()
    if as_json:
        _print_json(asdict(inspection.info(store.directory)))


@app.command()
def train(config: Config, override: Override = None, fresh: Fresh = False, as_json: Json = False) -> None:
    """Train the SAE, or all of a sweep, on cached activations (caching them first where needed)."""
    from saelab.cli.group import check_failures
    from saelab.files import read_json

    group = _group(config, override, _reporter(as_json))
    store = group.prepare(fresh=fresh)
    with group.claimed():
        group.begin(fresh=fresh)
        group.train(store)
    if as_json:
        finished = [run for run in group.runs if run.directory.finished]
        summaries = {run.config.name: read_json(run.directory.summary) for run in finished}
        alone = len(group.runs) == 1
        _print_json(next(iter(summaries.values())) if alone and summaries else summaries)
    check_failures([group])


@app.command(name="compare")
def compare_(
    config: Config,
    override: Override = None,
    fresh: Fresh = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="train this member alone, with its companion; may be repeated")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="of this seed alone; may be repeated")] = None,
    show: Annotated[bool, typer.Option("--show", help="train nothing: set out what is measured so far")] = False,
    as_json: Json = False,
) -> None:
    """Train the members of a comparison on one stream, measure them alike, and set them beside each other.

    The table takes in whatever is measured, so that a long comparison can be made in parts (--only, --seed).
    """
    from saelab.cli.compare import compare
    from saelab.cli.expand import group_directory
    from saelab.cli.family import family
    from saelab.cli.group import check_failures
    from saelab.cli.report import of_config
    from saelab.evals.family import document, terminal, write

    loaded = _load(config, override)
    chosen = {"only": only or (), "seeds": seed or ()}
    groups = [] if show else compare(loaded, _reporter(as_json), fresh=fresh, **chosen)
    table = family(loaded)
    paths = [*write(table, group_directory(loaded)), of_config(loaded)] if table.measured else []
    if as_json:
        _print_json(document(table))
    else:
        out = console()
        out.print(terminal(table))
        out.print(*paths, sep="\n", highlight=False, soft_wrap=True, markup=False)
    check_failures(groups)


@app.command(name="circuit")
def circuit_(
    config: Config,
    override: Override = None,
    fresh: Fresh = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="run this method alone; may be repeated")] = None,
    as_json: Json = False,
) -> None:
    """Find which heads of a model do a task, by many methods, and what each is worth. The same command again goes on.

    Writes circuit.json, a report page and a file for MIB's circuit track of each method. Shipped: circuits/ioi,
    circuits/greater_than, circuits/agreement, circuits/docstring, circuits/induction.
    """
    from saelab.cli.circuit import circuit, place_of, show
    from saelab.cli.configs import load_circuit
    from saelab.files import read_json

    loaded, reporter = load_circuit(config, override or []).only(only or ()), _reporter(as_json)
    found = circuit(loaded, reporter, fresh=fresh)
    _print_json(read_json(place_of(loaded).document)) if as_json else show(found, place_of(loaded), reporter)


@app.command(name="eval")
def evaluate(
    run: RunPath,
    override: Override = None,
    only: Annotated[
        str | None, typer.Option("--only", help="these evaluators alone: geometry,probing", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="every evaluator there is")] = False,
    again: Annotated[bool, typer.Option("--again", help="measure again what is measured already")] = False,
    convention: Annotated[
        Literal["saelab", "saebench"], typer.Option("--convention", help="saebench: its core metrics, too")
    ] = "saelab",
    as_json: Json = False,
) -> None:
    """Measure a trained run on held-out documents; writes eval.json, and the report anew where there is one.

    Without --only and --all, by the evaluators that the config names. Those that it does not name have their default
    settings; -o eval.probing.examples=500 sets one. What is in eval.json already stays there.
    """
    from saelab.cli.report import renew
    from saelab.cli.results import explain
    from saelab.cli.stages import open_run

    also = ["saebench_core"] if convention == "saebench" else []
    work = open_run(run, override or [], _reporter(as_json)).measured_by(only, every=every, also=also)
    with work.directory.claimed():
        work.reporter.log_to(work.directory.log)
        document = work.evaluate(work.store(), again=again)
        renew(work.directory)
    _print_json(document) if as_json else explain(work, document)


@app.command()
def index(
    run: RunPath,
    override: Override = None,
    data: Annotated[
        str | None, typer.Option("--data", help="other text than the run's: asset:..., a file, a dataset's name")
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", help="how much of --data is looked at")] = 500_000,
    again: Annotated[bool, typer.Option("--again", help="drop the index there is and build it anew")] = False,
    as_json: Json = False,
) -> None:
    """Build a run's feature index, for `saelab browse`. The same command again goes on."""
    from saelab.cli.report import renew
    from saelab.cli.stages import open_run

    work = open_run(run, override or [], _reporter(as_json))
    if data is not None:
        work = work.on_text(data, tokens)
    with work.directory.claimed():
        work.reporter.log_to(work.directory.log)
        bundle = work.index(work.store(), again=again)
        renew(work.directory)
    if as_json:
        _print_json(bundle.manifest)
    else:
        work.reporter.say(f"browse     saelab browse {run}")


@app.command(name="import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="another tool's directory or file, or hf://org/repo/path", show_default=False
        ),
    ],
    run: Annotated[Path, typer.Argument(metavar="DIR", help="the run to make, such as runs/x", show_default=False)],
    model: Annotated[str | None, typer.Option(help="the language model, where the files do not say it")] = None,
    hook: Annotated[str | None, typer.Option(help="what the SAE reads, such as blocks.5.hook_resid_post")] = None,
    target_hook: Annotated[str | None, typer.Option(help="what a transcoder reconstructs")] = None,
    data: Annotated[str | None, typer.Option(help="the text to look at it on: asset:..., a file, a dataset")] = None,
    tokens: Annotated[int, typer.Option(help="how much of that text")] = 500_000,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Make a run of an SAE that was trained elsewhere: eval, index and browse then work on it.

    Reads SAELens, sparsify, dictionary_learning, Gemma Scope and OpenAI; the format is recognised from the files.
    """
    from saelab.cli.importing import Given, import_sae
    from saelab.files import read_json

    given = Given(model, hook, target_hook, data, tokens, override or [])
    work = import_sae(source, run, given, _reporter(as_json))
    if as_json:
        _print_json(read_json(work.directory.summary))
    else:
        work.reporter.say(f"next       saelab eval {run}; saelab index {run}; saelab browse {run}")


@app.command()
def push(
    run: RunPath,
    repo: Annotated[str, typer.Argument(metavar="ORG/REPO", help="on the Hugging Face hub", show_default=False)],
    format: Annotated[
        list[str] | None,
        typer.Option(help="saelens, sparsify, dictionary_learning, or saelab alone; repeatable (the first two)"),
    ] = None,
    card: Annotated[Path | None, typer.Option(help="a card of your own in place of the one that is written")] = None,
    private: Annotated[bool, typer.Option("--private", help="only you see a repository that is made")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write the card, say what would be uploaded")] = False,
    as_json: Json = False,
) -> None:
    """Publish a run's SAE with a card written from the run; `SAE.load("hf://org/repo")` loads it anywhere.

    It goes up in saelab's format and, in directories beside it, in those of other tools that can hold it.
    """
    from saelab.cli.push import push

    pushed = push(run, repo, format or (), card=card, private=private, dry_run=dry_run)
    if as_json:
        _print_json(pushed.document())
        return
    reporter = _reporter(False)
    for name, size in pushed.sizes.items():
        reporter.say(f"{size:>15,} bytes  {name}")
    for name in pushed.removed:
        reporter.say(f"{'removed':>21}  {name}")
    for reason in pushed.refused.values():
        reporter.say(f"note       {reason}")
    reporter.say(f"card       {pushed.card}")
    reporter.say(f"push       {'nothing was uploaded' if pushed.url is None else pushed.url}")


@app.command()
def runs(
    directories: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", help="where to look (runs)", show_default=False)
    ] = None,
    sort: Annotated[str, typer.Option("--sort", help="name, or a column: fvu, l0, ce_score, written, ...")] = "name",
    as_json: Json = False,
) -> None:
    """List runs, finished or not, with their numbers; the best or newest first where they are sorted."""
    from rich.markup import escape

    from saelab.cli.runs import list_runs, ordered, table

    found = ordered(list_runs(directories or [Path("runs")]), sort)
    if as_json:
        _print_json(found.document())
        return
    out = console()
    out.print(table(found) if found.runs else "no runs here")
    for note in found.notes:
        out.print(f"[dim]{escape(note)}[/]", highlight=False, soft_wrap=True)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="runs, a directory that holds runs, or the config of a comparison or a sweep",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="the file (report.html, beside the runs)", show_default=False),
    ] = None,
    opens: Annotated[bool, typer.Option("--open", help="open it in a web browser")] = False,
    as_json: Json = False,
) -> None:
    """Write what was trained and how it did as one HTML page: of a run, or of several side by side."""
    from saelab.cli.report import report

    path = report(runs, output)
    _print_json({"path": str(path)}) if as_json else console().print(str(path), markup=False, soft_wrap=True)
    if opens:
        typer.launch(path.absolute().as_uri())


@app.command()
def browse(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]...", help="runs, or directories that hold runs (runs)", show_default=False),
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="the first free one from 8501", show_default=False)] = None,
    host: Annotated[str, typer.Option("--host", help="who may look: this machine alone")] = "127.0.0.1",
    opens: Annotated[bool, typer.Option("--open/--no-open", help="open a web browser")] = True,
) -> None:
    """Look at what every latent does, in a web browser."""
    from saelab.cli.browse import browse

    browse(runs or [Path("runs")], port, host, opens)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has, and what saelab makes of it."""
    from saelab.cli.doctor import report, table

    found = report()
    _print_json(found) if as_json else console().print(table(found))


def _add_groups() -> None:
    from saelab.cli import annotations, assets, bench, config, export, store

    app.add_typer(annotations.app, name="annotations", help="What people wrote about features: list, export, import.")
    app.add_typer(assets.app, name="assets", help="The demo model and text.")
    app.add_typer(bench.app, name="bench", help="What the variants find where the truth is known; how fast they train.")
    app.add_typer(config.app, name="config", help="Show, check and describe configurations.")
    app.add_typer(export.app, name="export", help="A run's SAE for other tools; its features for people.")
    app.add_typer(store.app, name="store", help="What stored activations hold, and whether they are whole.")


_add_groups()
