"""What is bounded here, by name."""

from typing import Final

DAEMONS_MAX: Final = 64
"""State directories that one shell looks after."""
TREE_ANSWER_SECONDS: Final = 2.0
"""How long a tree waits for a daemon; one that is slower is shown as not answering."""
EOF_CHARACTERS_SHOWN: Final = 40
"""Of a command line that was not understood."""
