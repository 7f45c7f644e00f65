"""Promises about the shape of the code: what imports what, what an import costs, who may name a variant."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import saelab
from saelab.sae import VARIANTS

PACKAGE = Path(saelab.__file__).parent


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_import_saelab_is_light():
    heavy = {"torch", "transformers", "transformer_lens", "datasets", "pydantic", "streamlit", "wandb", "numpy"}
    assert not loaded_by("import saelab") & heavy


def test_kernels_and_sae_need_only_torch_and_safetensors():
    heavy = {"transformers", "transformer_lens", "datasets", "pydantic", "streamlit", "wandb", "yaml", "rich", "typer"}
    heavy |= {"triton", "numba"}  # the kernels do without either
    assert not loaded_by("import saelab.kernels, saelab.sae, saelab.objectives; saelab.SAE; saelab.SparseCode") & heavy


def test_variants_are_named_in_one_place():
    """A variant's name is a string in `sae/variants.py` alone (other formats' modules will have to speak it)."""
    offenders = []
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[:1] == ("interop",) or path == PACKAGE / "sae" / "variants.py":
            continue
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        offenders += [
            f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in set(VARIANTS) and id(node) not in docstrings
        ]
    assert offenders == []


def test_no_pickle_eval_or_unsafe_loads():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load"}, path
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if name == "torch.load":
                    assert said.get("weights_only") == "True", path
                if name == "np.load":
                    assert said.get("allow_pickle") == "False", path
                assert not any(k.arg == "shell" for k in node.keywords), path


def test_every_module_says_what_it_is():
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path
