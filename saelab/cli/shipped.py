"""Example configs that come with saelab: `saelab run demo` works in an empty directory."""

from __future__ import annotations

from pathlib import Path

import saelab
from saelab.errors import SaelabError, did_you_mean


def _directory() -> Path:
    """Inside the package where it was installed from a wheel; beside it in a checkout."""
    package = Path(saelab.__file__).parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def names() -> list[str]:
    """Names of the shipped configs."""
    root = _directory()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find(config: Path) -> Path:
    """A file of the user's, or the shipped config of that name (`demo`, `configs/demo.yaml`, `compare/family`).

    Raises:
        SaelabError: neither is there.
    """
    if config.is_file():
        return config
    name = config.as_posix().removesuffix(".yaml").removeprefix("configs/")
    if name in names():
        return _directory() / f"{name}.yaml"
    raise SaelabError(
        f"there is no config '{config}'", fix=did_you_mean(name, names()) or f"shipped: {', '.join(names())}"
    )
