"""Measure this project beside other detectors, on this machine.

python tools/benchmark.py network --variant d0 --peer-python ../peer/bin/python
python tools/benchmark.py train --batch 4 16 --peer-python ../peer/bin/python --json train.json
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from benchmark.command import main  # the folder benchmark/ beside this file

if __name__ == "__main__":
    sys.exit(main())
