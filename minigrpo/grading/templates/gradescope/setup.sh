#!/usr/bin/env bash
# Gradescope: zip this folder together with a copy of the course in course/ (pyproject.toml, README.md, LICENSE, minigrpo/).
# Gradescope runs this once, when the autograder's image is built.
set -euo pipefail
apt-get update && apt-get install --yes --no-install-recommends bubblewrap python3 python3-venv
python3 -m venv /opt/grader
/opt/grader/bin/python -m pip install "torch>=2.8,<2.14" --index-url https://download.pytorch.org/whl/cpu
/opt/grader/bin/python -m pip install /autograder/source/course
