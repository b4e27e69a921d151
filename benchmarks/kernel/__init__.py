"""The kernel path beside its peers, in a virtual machine: LIO fileio, tcmu-runner and DRBD."""
