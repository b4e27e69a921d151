"""``python -m pratima_targetcli``."""

import sys

from pratima_targetcli.main import main

sys.exit(main())
