#!/usr/bin/env bash
# Installs into .venv if needed and runs the tests; arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec python -m pytest "$@"
