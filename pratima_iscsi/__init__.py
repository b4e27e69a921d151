"""Pratima: an iSCSI target whose mirrored backstore keeps an exact, ordered copy of its volumes."""

__version__ = "0.1.0"
