"""Print the 12 COCO numbers and the AP of every class.

python tools/evaluate.py --weights runs/demo/best.safetensors --data data/demo
python tools/evaluate.py --predictions results.json --annotations val.json
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
