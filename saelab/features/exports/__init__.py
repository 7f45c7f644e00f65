"""Features taken elsewhere, with what is written about them: to Neuronpedia, as one HTML page, as Parquet tables.

Each module writes one format from a `Selection`; `report(done, total, note)` is called as features are written.
"""

from collections.abc import Callable

from saelab.features.exports.selection import Selection

Report = Callable[[int, int, str], object]

__all__ = ["Report", "Selection"]
