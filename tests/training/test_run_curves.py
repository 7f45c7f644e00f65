"""Curves from a metrics file that is still being written."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from saelab.training.curves import Curves


def line(step: int, **metrics: object) -> str:
    return json.dumps({"step": step, **metrics}) + "\n"


def test_curves_grow_with_the_file(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    curves = Curves(path)
    curves.read_on()
    assert curves.by_name == {}
    path.write_text(line(1, fvu=0.5, l0=8) + line(2, fvu=0.4, other=None, flag=True) + '{"step": 3, "fv')
    curves.read_on()
    assert curves.by_name["fvu"].points() == [(1, 0.5), (2, 0.4)]
    assert curves.by_name.keys() == {"fvu", "l0"}
    with path.open("a") as file:
        file.write('u": 0.3}\n' + "no json\n" + "[1]\n" + line(4, fvu=float("nan")) + line(5, fvu=0.2))
    curves.read_on()
    assert curves.by_name["fvu"].points() == [(1, 0.5), (2, 0.4), (3, 0.3), (5, 0.2)]


def test_a_file_cut_back_and_written_on_is_read_anew(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(step, fvu=1 / step) for step in range(1, 9)))
    curves = Curves(path)
    curves.read_on()
    kept = "".join(line(step, fvu=1 / step) for step in range(1, 4))
    path.write_text(kept + "".join(line(step, fvu=2 / step) for step in range(4, 20)))
    curves.read_on()
    assert curves.by_name["fvu"].points()[4] == (5, 2 / 5)
    path.write_text(kept)
    curves.read_on()
    assert [step for step, _ in curves.by_name["fvu"].points()] == [1, 2, 3]
    path.unlink()
    curves.read_on()
    assert curves.by_name == {}


def test_a_long_run_takes_no_more_room(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(step, fvu=step) for step in range(50_001)))
    curves = Curves(path)
    curves.read_on()
    points = curves.by_name["fvu"].points()
    assert len(points) <= 1001
    assert points[0] == (0, 0.0)
    assert points[-1] == (50_000, 50_000.0)
    gaps = {b - a for (a, _), (b, _) in itertools.pairwise(points[:-1])}
    assert len(gaps) == 1
