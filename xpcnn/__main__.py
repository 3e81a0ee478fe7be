"""`python -m xpcnn`."""

import sys

from .cli import main

sys.exit(main())
