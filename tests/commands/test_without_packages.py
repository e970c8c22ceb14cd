"""A tool that is started without the virtual environment says so in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("tool", ["pretrain", "transcribe"])
def test_packages_that_are_missing_end_in_one_line(tool):
    # -S: without any site-packages; -E: nor those that the environment names
    found = subprocess.run(
        [sys.executable, "-S", "-E", "-m", f"w2v_jax.{tool}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 1
    (line,) = found.stderr.splitlines()
    assert "source .venv/bin/activate, which launch/test.sh makes" in line
