"""`saelab circuit`: which heads of a model do a task, as many methods say it, and what each of them is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from saelab import machine
from saelab.circuits import Anatomy, Edges, draw, first_edges, run, write_mib_circuit
from saelab.circuits.directory import CircuitDirectory
from saelab.circuits.findings import Findings, findings, read
from saelab.circuits.latents import look_at_latents
from saelab.circuits.report import of_findings
from saelab.circuits.report.table import method_table
from saelab.circuits.truth import members
from saelab.cli import provenance
from saelab.cli.circuit_schema import CircuitConfig, file_name
from saelab.cli.console import Reporter
from saelab.cli.stages import Loaded
from saelab.config import config_sha256, to_yaml
from saelab.errors import SaelabError
from saelab.evals.report.words import count
from saelab.features.live import Live
from saelab.files import write_json, write_text
from saelab.lm.model import LanguageModel
from saelab.sae import SAE
from saelab.training.run_directory import RunDirectory

_FEATURE_SEED = 70_000
"""Of prompts that latents are looked at on; of the training split, as methods' own."""


def circuit(config: CircuitConfig, reporter: Reporter, *, fresh: bool = False) -> Findings:
    """Run what is not run yet, and write everything; what was made before with the same settings, and with the same
    SAE, is used again.

    Raises:
        SaelabError: the model does not do the task; an SAE that is not there, or is of another model; the directory
            holds something else.
    """
    place = place_of(config)
    sae = None if config.sae is None else _sae(Path(config.sae))
    with RunDirectory(place.path).claimed():
        if fresh:
            place.start_over()
        reporter.log_to(place.log)
        write_text(place.config, to_yaml(config))
        found = _done(place, config, sae)
        if found is None:
            lm = Loaded(config.model, reporter).model
            document = _run(config, lm, sae, place, reporter)
            found = findings(document, config.name)
            _export(found, first_edges(lm, config.plan, place.parts), lm, place)
            write_json(place.document, document)
        write_text(place.page, of_findings(found))
    return found


def place_of(config: CircuitConfig) -> CircuitDirectory:
    return CircuitDirectory(Path(config.runs_dir) / config.name)


def _done(place: CircuitDirectory, config: CircuitConfig, sae: SAE | None) -> Findings | None:
    """What was found, where all is done for this config and this SAE."""
    try:
        found = read(place.path)
    except SaelabError:
        return None
    looked_at = found.features.sae_sha256 if found.features else None
    same = found.config_sha256 == config_sha256(config) and looked_at == (sae.sha256() if sae else None)
    return found if same else None


def _sae(directory: Path) -> SAE:
    """Of a run."""
    run = RunDirectory(directory)
    if not run.finished:
        raise SaelabError("there is no trained SAE in this run", where=f"sae: {directory}", fix="saelab run CONFIG")
    return SAE.load(run.sae)


def _run(
    config: CircuitConfig, lm: LanguageModel, sae: SAE | None, place: CircuitDirectory, reporter: Reporter
) -> dict[str, Any]:
    with reporter.stages() as tell:
        live = None if sae is None else Live.of(sae.to(lm.device), lm)  # that they fit is found before hours of work
        stamp = {
            "git_revision": provenance.git_revision(),
            "versions": provenance.versions(),
            "machine": machine.describe(),
        }
        document = run(lm, config.plan, place.parts, tell, stamp)
        document |= {
            "name": config.name,
            "circuit": {"method": config.shown, "heads": config.circuit.heads},
            "config": to_yaml(config),
            "config_sha256": config_sha256(config),
            **stamp,
        }
        if live is not None:
            heads = findings(document, config.name).circuit(config.shown)
            pairs = draw(config.task, config.features.prompts, "train", _FEATURE_SEED, lm)
            found = look_at_latents(live, pairs, heads, config.features.latents, tell)
            document["features"] = {"run": config.sae, **found}
    return document


def _export(found: Findings, edges: Mapping[str, Edges], lm: LanguageModel, place: CircuitDirectory) -> None:
    """A file for each method, for MIB's circuit track: the scores of the first seed, the strongest heads marked."""
    anatomy = Anatomy.of(lm)
    place.empty_mib()
    for label, one in found.methods.items():
        scores = replace(one.scores[0], edges=edges.get(label))
        inside = members(found.circuit(label), found.shape)
        write_mib_circuit(place.mib / f"{file_name(label)}.json", scores, inside, anatomy)


def show(found: Findings, place: CircuitDirectory, reporter: Reporter) -> None:
    """Print the table and the places of the files."""
    console = reporter.console
    shown = method_table(found)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown.columns:
        table.add_column(escape(column), justify="left" if column == "method" else "right", no_wrap=column != "method")
    for row in shown.rows:
        table.add_row(*(escape(f"{cell:g}" if isinstance(cell, float) else str(cell)) for cell in row))
    inside, total = int(found.truth.members.sum()), found.shape[0] * found.shape[1]
    console.print()
    console.print(table)
    console.print()
    said = (
        f"AUC against {inside} of {total} heads ({found.truth.source}) and other cut-offs; mean ± spread over "
        f"{count(found.seeds, 'seed')}; the model is right on {found.competence.accuracy:.0%} of prompts"
    )
    console.print(escape(said), style="dim", highlight=False, soft_wrap=True)
    for what, path in (
        ("the report", place.page),
        ("all of it", place.document),
        ("for MIB's circuit track", place.mib),
        ("the whole config", place.config),
    ):
        console.print(escape(f"{what:<24}{path}"), highlight=False, soft_wrap=True)
