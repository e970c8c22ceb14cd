"""The package as pip installs it: what is in the wheel, and that it works from any folder."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.tools import tool
from w2v_jax import config_files
from w2v_jax.__main__ import TOOLS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what the wheel installs, and nothing else of the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("w2v_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=skip)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         f"--wheel-dir={folder}", str(source)],
        check=True, timeout=120,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(site, folder, *words, status=0):
    """`w2v WORDS` in `folder`."""
    result = subprocess.run(
        [sys.executable, "-m", "w2v_jax", *map(str, words)], cwd=folder, capture_output=True,
        text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(site)},
    )  # fmt: skip
    assert result.returncode == status, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout + result.stderr


def test_the_wheel_has_all_that_the_package_has(installed):
    def files(root):
        found = (path for path in root.rglob("*") if path.is_file())
        return {str(x.relative_to(root)) for x in found if "__pycache__" not in x.parts}

    configs = {f"configs/{name}" for name in files(ROOT / "configs")}
    inside = {x for x in files(ROOT / "w2v_jax") if not x.startswith("configs/")}
    assert files(installed / "w2v_jax") == inside | configs
    (folder,) = installed.glob("*.dist-info")
    (script,) = importlib.metadata.Distribution.at(folder).entry_points
    assert (script.name, script.value) == ("w2v", "w2v_jax.__main__:main")


def test_it_works_from_any_folder(installed, tmp_path):
    said = run(installed, tmp_path)
    assert all(tool in said for tool in TOOLS)
    samples = Path(run(installed, tmp_path, "samples").strip())
    assert samples == installed / "w2v_jax" / "samples"
    run(installed, tmp_path, "prepare", f"--input={samples}/dev-clean", "--output=dev.tsv")
    assert len((tmp_path / "dev.tsv").read_text().splitlines()) > 10
    assert "there are prepare" in run(installed, tmp_path, "trian", status=2)


def test_help_shows_own_flags_and_the_keys_of_a_config(installed, tmp_path):
    said = run(installed, tmp_path, "pretrain", "--help")
    assert "--workdir" in said
    assert "wav2vec2" in said
    assert "jax_" not in said  # flags of libraries
    said = run(installed, tmp_path, "pretrain", "--config=wav2vec2:tiny", "-h")
    assert "loss.negatives" in said
    assert "large_lv60k" in said  # the arguments


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_says_what_it_does(name):
    result = tool(name, "--help")
    assert "Flags:" in result.stdout
    assert not result.stderr


def test_recipes_are_found_by_name_and_by_path(tmp_path, monkeypatch):
    recipe = str(config_files.RECIPES / "wav2vec2.py")
    for name in ("wav2vec2", "wav2vec2.py", "configs/wav2vec2.py", "configs/wav2vec2"):
        monkeypatch.chdir(tmp_path)
        assert config_files.located(f"{name}:tiny,block=conformer") == (
            f"{recipe}:tiny,block=conformer"
        )
    assert config_files.located("mine/wav2vec2.py:base") == "mine/wav2vec2.py:base"
    own = tmp_path / "wav2vec2.py"
    own.write_text("def get_config():\n    pass\n")
    assert config_files.located("wav2vec2.py") == "wav2vec2.py"
    assert config_files.located("wav2vec2") == recipe
    assert config_files.with_located(["x", "--config", "lm:words_tiny", "--config.seed=1"]) == [
        "x", "--config", f"{config_files.RECIPES / 'lm.py'}:words_tiny", "--config.seed=1",
    ]  # fmt: skip
    assert "wav2vec2" in config_files.recipes()
    assert "common" not in config_files.recipes()
