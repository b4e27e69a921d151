"""TCMU without I/O: the ring that the kernel shares with us, and the names of its devices."""
