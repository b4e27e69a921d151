"""SCSI: CDBs, sense, VPD pages, mode pages, the logical unit. Sans I/O, shared by both front ends."""
