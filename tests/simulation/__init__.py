"""The deterministic simulator: virtual time, network and disks under the real code."""
