"""``python -m vidgen`` is the ``vidgen`` command."""

import sys

from vidgen.cli.main import main

sys.exit(main())
