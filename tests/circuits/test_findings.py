"""What `circuit.json` holds is read whole, or refused; where such are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saelab.circuits.directory import CircuitDirectory, find_circuits
from saelab.circuits.findings import read
from saelab.errors import SaelabError
from tests.circuits.documents import document


def write(path: Path, found: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    CircuitDirectory(path).document.write_text(json.dumps(found))
    return path


def test_all_of_it_is_read(tmp_path):
    found = read(write(tmp_path / "ioi", document()))
    assert (found.name, found.task, found.shape, found.kv_heads, found.seeds) == ("circuit", "ioi", (6, 4), 2, 2)
    assert found.truth.source == "exact patching"
    assert int(found.truth.members.sum()) == 3
    assert found.truths["a paper"].effects is None
    assert found.methods["first"].signed
    assert found.methods["first"].mean.allclose(
        (found.methods["first"].scores[0].heads + found.methods["first"].scores[1].heads) / 2
    )
    assert [row.label for row in found.rows] == ["first", "edges", "third"]
    auc = found.rows[0].auc["0.02"]
    assert auc is not None
    assert auc.values == pytest.approx((0.9, 0.92))
    assert found.curves["first"]["strength"].sizes == (0, 0, 2, 24)
    assert found.shown == ("edges", 5)
    assert len(found.circuit("edges")) == 5
    assert found.features is not None
    assert found.features.latents[0].fed == (0.25, 1.0)


def test_what_the_library_alone_wrote_is_read_too(tmp_path):
    whole = document(seeds=1)
    for key in ("name", "features", "circuit", "config"):
        del whole[key]
    whole |= {"curves": {}, "together": None}
    found = read(write(tmp_path / "of the library", whole))
    assert (found.name, found.shown, found.features, found.config) == ("of the library", None, None, "")


def put(found: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *above, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place: Any = found
    for part in above:
        place = place[part]
    place[last] = value
    return found


DAMAGE: list[Callable[[dict[str, Any]], Any]] = [
    lambda found: [],
    lambda found: {},
    lambda found: put(found, "schema", 2),
    lambda found: put(found, "shape", [6, 0]),
    lambda found: put(found, "shape", [10**9, 10**9]),
    lambda found: put(found, "truths", {}),
    lambda found: put(found, "methods", {}),
    lambda found: put(found, "methods/first/seeds", []),
    lambda found: put(found, "methods/first/seeds/0/heads", [[1.0]]),
    lambda found: put(found, "methods/first/seeds/1/heads/0/0", float("nan")),
    lambda found: put(found, "methods/first/seeds/1/heads/0/0", "much"),
    lambda found: put(found, "methods/edges/seeds/0/mlps", [1.0]),
    lambda found: put(found, "methods/edges/seeds/0/edges/0/2", None),
    lambda found: put(found, "methods/first/seeds/0/cost/seconds", "long"),
    lambda found: put(found, "methods/first/seeds/0/rankings/0.02/auc", "good"),
    lambda found: put(found, "truths/0.02/heads/0", [6, 0]),
    lambda found: put(found, "truths/0.02/heads/0", [-1, 0]),
    lambda found: put(found, "truths/0.02/effects", 1),
    lambda found: put(found, "curves/methods/first/strength/sizes", [1]),
    lambda found: put(found, "curves/methods/first/strength/cpr", 1e300),
    lambda found: put(found, "curves/random", 3),
    lambda found: put(found, "together/loss", None),
    lambda found: put(found, "features/latents/0/fed", [1.0]),
    lambda found: put(found, "circuit/method", "another"),
    lambda found: put(found, "competence/accuracy", True),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_refused_with_its_place(damage: Callable[[dict[str, Any]], Any], tmp_path):
    path = write(tmp_path, damage(document()))
    with pytest.raises(SaelabError, match=r"circuit.json: this is no circuit.json of this version of saelab: "):
        read(path)


def test_what_is_no_json_or_not_there_is_refused(tmp_path):
    with pytest.raises(SaelabError, match="this file does not exist"):
        read(tmp_path)
    (tmp_path / "circuit.json").write_text("{")
    with pytest.raises(SaelabError, match="not a readable JSON file"):
        read(tmp_path)


def test_experiments_are_found_beside_runs_and_not_inside_of_them(tmp_path):
    for place in ("b/c", "a", "run", "run/index/x", ".hidden", "1/2/3/4/5/6"):
        write(tmp_path / place, {})
    (tmp_path / "run" / "config.yaml").write_text("")
    (tmp_path / "under-way").mkdir()
    (tmp_path / "under-way" / "parts.json").write_text("")
    known = [str(path.relative_to(tmp_path)) for path in find_circuits(tmp_path)]
    assert known == ["a", "b/c", "run", "under-way"]
    assert list(find_circuits(tmp_path / "a")) == [tmp_path / "a"]
    assert list(find_circuits(tmp_path / "nothing")) == []
