"""Stories, each with faults at chosen moments, told by the simulator over the real core."""
