#!/usr/bin/env bash
# Checks and measures on a GPU what docs/performance.md leaves open:  measure_gpu.sh FOLDER [--quick] [--parts PART …]
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/measure_gpu.py" "$@"
