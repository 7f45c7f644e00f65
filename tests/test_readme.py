"""The README's Python runs as it stands."""

import re
from pathlib import Path

from saelab.sae import VARIANTS, build

README = Path(__file__).parent.parent / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = blocks()[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 16
    exec(compile(code, "README.md", "exec"), {})
    assert "torch.Size([1000, 64])" in capsys.readouterr().out


def test_a_variant_is_added_as_the_readme_says():
    try:
        exec(compile(blocks()[1], "README.md", "exec"), {"__name__": "readme"})
        assert build("narrow_topk", 16, {"n_latents": 32}).sae.n_latents == 32
    finally:
        VARIANTS.remove("narrow_topk")
