"""`python -m trunkline` is the command `trunkline`."""

import sys

from trunkline.cli.main import main

sys.exit(main())
