"""Measure this project beside a peer, on this machine, in one run.

python tools/benchmark.py network --variant d0 --peer-python PYTHON
python tools/benchmark.py train --batch 4 16 --peer-python PYTHON --json train.json
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
