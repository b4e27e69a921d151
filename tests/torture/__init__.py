"""Tools that break things on purpose: connections, system calls, processes.

    proxy.py    a TCP proxy between two daemons: delay, rate, hold, blackhole, cut, flip, duplicate
    faults.c    a preloaded library: the nth pwrite, fdatasync, open ... fails, or kills the process
    faults.py   builds it, and says which fault in the environment of a process
    daemons.py  starts, stops, kills, freezes and copies the project's own daemons
    login.py    a small iSCSI initiator that shares no line with the project
    workload.py overlapping stamped writes through a login, recorded for the oracle
    scene.py    a primary, a replica, a workload, and images judged by the oracle

One rule: every fault is drawn from a seed or named by the test, and what was done is written down.
"""
