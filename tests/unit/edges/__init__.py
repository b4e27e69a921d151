"""Tests of the I/O edges."""
