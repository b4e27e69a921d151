"""I/O: the only code that opens files, sockets and databases. Each module wraps one kind."""
