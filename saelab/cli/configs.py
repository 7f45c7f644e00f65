"""Which of two kinds a config is, and reading it as that: a run's, or that of an experiment on circuits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saelab.cli.shipped import find
from saelab.config import config_sha256, load_config
from saelab.config.document import read_document
from saelab.errors import SaelabError

if TYPE_CHECKING:
    from saelab.cli.circuit_schema import CircuitConfig
    from saelab.cli.schema import RunConfig


def load_run(config: Path, overrides: Sequence[str]) -> RunConfig:
    """A file, or a shipped config, as a run.

    Raises:
        SaelabError: no such config; it is of an experiment on circuits; any number of bad keys.
    """
    from saelab.cli.schema import RunConfig

    path = find(config)
    try:
        return load_config(RunConfig, path, overrides)
    except SaelabError:
        if "task" in _keys(path):
            raise SaelabError(
                "this config looks for a circuit", where=str(config), fix=f"saelab circuit {config}"
            ) from None
        raise


def load_circuit(config: Path, overrides: Sequence[str]) -> CircuitConfig:
    """A file, or a shipped config, as an experiment on circuits.

    Raises:
        SaelabError: no such config; it is a run's; any number of bad keys.
    """
    from saelab.cli.circuit_schema import CircuitConfig

    path = find(config)
    try:
        return load_config(CircuitConfig, path, overrides)
    except SaelabError:
        if "activations" in _keys(path):
            raise SaelabError("this config trains an SAE", where=str(config), fix=f"saelab run {config}") from None
        raise


def load_either(config: Path, overrides: Sequence[str]) -> RunConfig | CircuitConfig:
    """Whichever of the two it is."""
    from saelab.cli.circuit_schema import CircuitConfig
    from saelab.cli.schema import RunConfig

    path = find(config)
    return load_config(CircuitConfig if "task" in _keys(path) else RunConfig, path, overrides)


def checked(config: Path, overrides: Sequence[str]) -> str:
    """What a config and all that it describes come to, once they are found to be good."""
    from saelab.cli.circuit_schema import CircuitConfig
    from saelab.cli.expand import compared, swept

    loaded = load_either(config, overrides)
    said = f"sha256 {config_sha256(loaded)[:16]}"
    if isinstance(loaded, CircuitConfig):
        return f"{said}, {len(loaded.methods)} methods, {loaded.seeds} seeds"
    members = compared(loaded, loaded.compare.seeds[0]) if loaded.compare else swept(loaded)
    return f"{said}, {len(members)} SAEs on one stream" if len(members) > 1 else said


def _keys(path: Path) -> Mapping[str, Any]:
    """What stands at the top level; nothing where that cannot be read, which is for `load_config` to say."""
    try:
        data = read_document(path.read_text(encoding="utf-8"), str(path)).data
    except (OSError, UnicodeDecodeError, SaelabError):
        return {}
    return data if isinstance(data, dict) else {}
