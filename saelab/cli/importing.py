"""`saelab import`: an SAE that was trained elsewhere becomes a run that can be measured, indexed and browsed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saelab.cli import provenance
from saelab.cli.console import Reporter
from saelab.cli.schema import RunConfig
from saelab.cli.stages import Loaded, Run
from saelab.cli.what_trains import what_trains
from saelab.config import as_dict, parse_config
from saelab.config.document import write_document
from saelab.errors import SaelabError
from saelab.files import atomic_directory, sha256_json, write_json, write_text
from saelab.interop import Origin
from saelab.lm.mask import Mask
from saelab.lm.model import LanguageModel
from saelab.sae import SAE
from saelab.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Given:
    """What a user says of an SAE; it wins over what its files say. None: nothing.

    Attributes:
        model, hook, target_hook, data: where it belongs, and what it is to be looked at on.
        tokens: how much of the text is looked at.
        overrides: any other key of the run's configuration, `section.key=value`.
    """

    model: str | None = None
    hook: str | None = None
    target_hook: str | None = None
    data: str | None = None
    tokens: int = 500_000
    overrides: Sequence[str] = ()


def import_sae(source: str, directory: Path, given: Given, reporter: Reporter) -> Run:
    """Make a run directory of the SAE that `source` names: complete, or not at all.

    The language model is loaded, so that a model or a hook that does not fit is found here.

    Raises:
        SaelabError: what `SAE.load` raises; nothing says which model, hook or text; the SAE does not fit
            the hook; the directory is there already.
    """
    if directory.exists():
        raise SaelabError("this directory exists already", where=str(directory), fix="choose another name")
    sae = SAE.load(source)
    if sae.identity.form != "inference":
        raise SaelabError("this SAE is in training form", where=source, fix="save its inference(...) form")
    config = _config(sae, source, directory, given)
    document = _written(config, sae)
    run = Run(config, reporter, Loaded(config.model, reporter), directory.absolute())
    _check_fits(sae, config, run.model)
    imported = dict(sae.identity.provenance.get("imported", {}))
    sae.identity.provenance |= _provenance(config, run.model, Origin.of(sae.identity))
    summary = {
        "name": config.name,
        "config_sha256": sha256_json(what_trains(config)),
        "sae_sha256": sae.sha256(),
        "imported": {"from": source, "format": imported.get("format"), "sha256": imported.get("sha256")},
        "versions": provenance.versions(),
        "git_revision": provenance.git_revision(),
    }
    with atomic_directory(directory) as temporary, RunDirectory(temporary).claimed():
        place = RunDirectory(temporary)
        write_text(place.config, write_document(document))
        write_json(place.summary, summary)
        sae.save(place.sae)
    what = f"{sae.identity.kind}, {sae.n_latents:,} latents at {config.sae_hook} of {config.model.name}"
    reporter.say(f"import     {what} -> {directory}")
    return run


_HERE = ("model", "data", "windows", "mask", "activations", "eval", "index")
"""Sections that say how an SAE is looked at here."""


def _config(sae: SAE, source: str, directory: Path, given: Given) -> RunConfig:
    for override in given.overrides:
        if not re.match(rf"({'|'.join(_HERE)})\b", override):
            raise SaelabError(
                "this says how an SAE is trained, and this one is trained already",
                where=f"-o {override}",
                fix=f"only {', '.join(_HERE)} can be set",
            )
    text = write_document(_document(sae, source, directory, given))
    return parse_config(RunConfig, text, "the imported run's config", list(given.overrides))


def _written(config: RunConfig, sae: SAE) -> dict[str, Any]:
    """The run's config.yaml: complete as to where the SAE belongs, and silent on a training that nobody here saw."""
    whole = as_dict(config)
    said = {key: whole[key] for key in ("name", "imported_from", *_HERE, "hook", "target_hook", "skip")}
    return said | {"sae": {"kind": sae.identity.kind, **sae.identity.settings}}


def _document(sae: SAE, source: str, directory: Path, given: Given) -> dict[str, Any]:
    """What the files and the user say, as a configuration."""
    identity, origin = sae.identity, Origin.of(sae.identity)
    model = given.model or hub_name(origin.model)
    hook, target = given.hook or origin.hook, given.target_hook or origin.target_hook
    data = given.data or origin.dataset
    asked = {"--model": model, "--hook": hook, "--data": data}
    asked |= {"--target-hook": target} if identity.transcoder else {}
    if missing := [option for option, value in asked.items() if value is None]:
        raise SaelabError(
            "nothing in these files says where the SAE belongs, or on what text to look at it",
            where=source,
            fix=f"give {', '.join(missing)}",
        )
    windows = {"context_length": origin.context_length, "prepend_bos": origin.prepend_bos}
    mask = {"special_tokens": origin.special_tokens, "first_position": origin.first_position}
    document: dict[str, Any] = {
        "name": directory.absolute().name,
        "imported_from": source,
        "model": {"name": model},
        "data": {"dataset": data},
        "activations": {"hooks": [hook], "tokens": given.tokens},
        "sae": {"kind": identity.kind, **identity.settings},
        "windows": {key: value for key, value in windows.items() if value is not None},
        "mask": {key: value for key, value in mask.items() if value is not None},
    }
    if identity.transcoder:
        document["activations"]["hooks"].append(target)
        document |= {"target_hook": target, "skip": identity.skip}
    return document


def hub_name(model: str | None) -> str | None:
    """The hub's name for what TransformerLens calls a model: SAEs are often said to be of "gpt2-small"."""
    if model is None or Path(model).exists():
        return model
    from transformer_lens.supported_models import MODEL_ALIASES

    return next((name for name, aliases in MODEL_ALIASES.items() if model in aliases), model)


def _check_fits(sae: SAE, config: RunConfig, lm: LanguageModel) -> None:
    places = [("--hook", config.sae_hook, sae.identity.d_in)]
    places += [("--target-hook", config.target_hook, sae.identity.d_out)] if config.target_hook else []
    for option, name, width in places:
        found = lm.hook(name).width
        if found != width:
            raise SaelabError(
                f"'{name}' of {config.model.name} is {found} wide, and the SAE {width}",
                where=option,
                fix="name the model and the hook that the SAE was trained on",
            )
    length = config.windows.context_length
    if lm.max_context is not None and length > lm.max_context:
        raise SaelabError(
            f"contexts of {length} tokens are more than this model's {lm.max_context}",
            where="windows.context_length",
            fix=f"-o windows.context_length={lm.max_context}",
        )


def _provenance(config: RunConfig, lm: LanguageModel, origin: Origin) -> dict[str, Any]:
    """What a trained run says of itself, as far as it is known; of its training, what its files said."""
    return {
        "model": lm.identity,
        "hook": config.sae_hook,
        "target_hook": config.target_hook,
        "data": {"dataset": origin.dataset} if origin.dataset else {},
        "windows": asdict(config.windows),
        "mask": Mask.of(config.mask, lm.tokenizer).as_json(),
        "git_revision": provenance.git_revision(),
        "versions": provenance.versions(),
    }
