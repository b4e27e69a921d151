"""Links, handshake rules, messages, wire, and the replica's side: sans I/O."""
