"""Check a data set, draw the demo set, download COCO.

python tools/data.py check data/coco
python tools/data.py demo --root data/demo
python tools/data.py download coco2017 --root data/coco
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["data", *sys.argv[1:]]))
