"""`saelab config show | validate | schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

Config = Annotated[Path, typer.Argument(help="a YAML file", show_default=False)]
Override = Annotated[list[str] | None, typer.Option("-o", "--override", help="section.key=value; repeatable")]


@app.command()
def show(
    config: Config,
    override: Override = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of YAML")] = False,
) -> None:
    """Print the resolved config, every default filled in."""
    from saelab.cli.configs import load_either
    from saelab.config import as_dict, to_yaml

    loaded = load_either(config, override or [])
    typer.echo(json.dumps(as_dict(loaded), indent=2) if as_json else to_yaml(loaded), nl=as_json)


@app.command()
def validate(config: Config, override: Override = None) -> None:
    """Check a config, and every member of what it sweeps or compares; 0 where it is good."""
    from saelab.cli.configs import checked

    typer.echo(f"{config}: good ({checked(config, override or [])})")


@app.command()
def schema(
    circuit: Annotated[bool, typer.Option("--circuit", help="of configs for `saelab circuit`")] = False,
) -> None:
    """Print the JSON schema, for editors: every key, type, default and description."""
    from saelab.cli.circuit_schema import CircuitConfig
    from saelab.cli.schema import RunConfig
    from saelab.config import json_schema

    typer.echo(json.dumps(json_schema(CircuitConfig if circuit else RunConfig), indent=2))
