"""``python -m shoal`` is the command."""

import sys

from shoal.cli.main import main

sys.exit(main())
