"""iSCSI (RFC 7143): PDUs, login negotiation, sessions. Sans I/O."""
