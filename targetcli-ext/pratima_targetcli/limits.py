"""What is bounded here, by name."""

from typing import Final

DAEMONS_MAX: Final = 64
"""State directories that one shell looks after."""
TREE_ANSWER_SECONDS: Final = 5.0
"""How long a tree waits for a daemon; one that is slower is shown as not answering."""
ANSWER_SECONDS: Final = 10.0
"""How long a command waits for a daemon."""
TARGET_ANSWER_SECONDS: Final = 60.0
"""The same where a target is made or ended: disks, initiators and the kernel take their time."""
COMPLETIONS_MAX: Final = 256
"""Files of a directory that a completion offers."""
REST_CHARACTERS_SHOWN: Final = 40
"""Of a command line that was not understood."""
