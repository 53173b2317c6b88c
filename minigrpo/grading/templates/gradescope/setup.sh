#!/usr/bin/env bash
# Gradescope: zip this folder together with a copy of the course in course/ (pyproject.toml, README.md, LICENSE, minigrpo/).
# Gradescope runs this once, when the autograder's image is built. PyTorch's CPU build, which pytorch.org ("Get Started")
# says how to install, saves gigabytes; put it before the last line.
set -euo pipefail
cd "$(dirname "$0")"
apt-get update && apt-get install --yes --no-install-recommends bubblewrap python3 python3-venv
python3 -m venv grader
grader/bin/python -m pip install ./course
