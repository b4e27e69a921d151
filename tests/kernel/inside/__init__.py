"""Tests that run in a guest, as root, against its kernel's LIO, TCMU and initiators.

``make test-kernel`` boots the guests; ``tests/kernel/test_inside.py`` says which tests go together.
One rule: a test leaves the kernel as it found it, so that those after it in its guest are not
fooled; and each wait has a deadline, for a hung kernel answers nobody.
"""
