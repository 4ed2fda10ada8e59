"""``python -m shoal`` is the command."""

import sys

from shoal.cli import main

sys.exit(main())
