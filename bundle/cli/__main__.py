"""``python -m bundle.cli``: ``tcmn``, also where its script is not on the path."""

import sys

from bundle.cli import main

sys.exit(main())
