"""One YAML file, one typed and frozen config: see `load.py`."""

from saelab.config.derive import Choice, OneOf, TableOf
from saelab.config.load import as_dict, build_config, config_sha256, json_schema, load_config, parse_config, to_yaml

__all__ = [
    "Choice",
    "OneOf",
    "TableOf",
    "as_dict",
    "build_config",
    "config_sha256",
    "json_schema",
    "load_config",
    "parse_config",
    "to_yaml",
]
