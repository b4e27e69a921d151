"""targetcli with Pratima in its tree: a backstore, and the groups, links, replicas and journals.

One rule: it knows a daemon by its control socket alone; of the target's package it imports
``pratima_iscsi.control`` and nothing else.
"""

from typing import Final

__version__: Final = "0.1.0"
