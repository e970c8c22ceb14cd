#!/usr/bin/env bash
# Installs into .venv if needed and runs the tests, two at a time; arguments go to pytest.
# W2V_TEST_PROCESSES  how many at a time; each needs up to 3 GB
# DRY=1  prints the command
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
act python -m pytest -n "${W2V_TEST_PROCESSES:-2}" --dist worksteal "$@"
