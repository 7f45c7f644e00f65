"""What a built wheel holds."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_holds_package_and_configs_and_nothing_else(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("saelab-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    configs = [f"saelab/configs/{name}.yaml" for name in ("demo", "gpt2-small")]
    app = [f"saelab/dashboards/{name}" for name in ("app.py", "style.css", "icon.svg", "saelab_dashboard/feature.py")]
    data = ("saelab/py.typed", "saelab/testing/trials.yaml", "saelab/evals/report/style.css")
    for name in ("saelab/__init__.py", *data, *configs, *app):
        assert name in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"saelab", next(top for top in tops if top.endswith(".dist-info"))}
