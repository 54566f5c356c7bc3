"""Measure how fast your weights are on this machine; or, in a clone, this project beside other detectors.

python tools/benchmark.py runs/demo/best.safetensors
python tools/benchmark.py network --variant d0 --peer-python ../peer/bin/python
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from benchmark import command  # the folder benchmark/ beside this file
from effdet.commands import main

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in command.MEASUREMENTS:
        sys.exit(command.main())
    sys.exit(main(["benchmark", *sys.argv[1:]]))
