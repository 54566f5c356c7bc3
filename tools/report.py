"""Write a page that shows what a detector learned, or compare several runs.

python tools/report.py runs/demo
python tools/report.py --weights runs/demo/best.safetensors --data data/demo
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
