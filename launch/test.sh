#!/usr/bin/env bash
# Installs into .venv if needed (a minute or two) and runs the tests, two at a time (some minutes);
# arguments go to pytest.
#   launch/test.sh
#   launch/test.sh tests/audio -x
# PYTHON   the interpreter that makes .venv (default: python3)
# W2V_TEST_PROCESSES  how many at a time; each needs up to 7 GB
# DRY=1  prints the command
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
act python -m pytest -n "${W2V_TEST_PROCESSES:-2}" --dist worksteal "$@"
