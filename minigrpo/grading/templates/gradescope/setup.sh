#!/usr/bin/env bash
# Gradescope: zip the files of this folder, and a copy of the course in course/ (pyproject.toml, README.md, LICENSE, minigrpo/).
# Gradescope runs this once, when the autograder's image is built; give the container at least 1.5 GB of memory. PyTorch's CPU
# build, which pytorch.org ("Get Started") says how to install, saves gigabytes; put it before "pip install ./course".
set -euo pipefail
cd "$(dirname "$0")"
python=python3  # in the default image, Ubuntu 22.04, it is 3.10
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || python=python3.11
apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends bubblewrap "$python" "$python-venv"
"$python" -m venv grader
grader/bin/python -m pip install ./course
# Where the container forbids bubblewrap, a submission may read what everybody may read: not the answers, and not the results.
chmod -R o= course grader/lib/python3*/site-packages/minigrpo
if [ -d ../results ]; then chmod o= ../results; fi
