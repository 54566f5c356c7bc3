"""``python -m effdet`` is the command ``effdet``."""

import sys

from effdet.commands import main

sys.exit(main())
