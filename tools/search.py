"""Search for an architecture that is accurate and cheap on your own data.

python tools/search.py configs/custom.yaml data.root=photos --target-macs 1e9
python tools/search.py configs/custom.yaml data.root=photos --runtime onnxruntime --target-ms 15
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
