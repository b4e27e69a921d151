"""The black-box oracle: stamps, recorder, checker.

It judges an image of a group's volumes by its bytes alone: every sector of every write carries a
stamp that names the write, so an image says which write each of its sectors shows. The rule: an
image is right when it equals what SOME prefix of SOME total order of the recorded operations
leaves behind, where the order respects "acknowledged before issued".

    stamps.py       what a sector carries, and an image read back to operation ids
    recorder.py     what was issued and acknowledged when; persisted as JSON lines
    checker.py      the verdict, exact, in about n log n
    brute_force.py  the same verdict by trying every order and prefix: proves the checker
    cases.py        random small histories and images, right and wrong, for that proof
    __main__.py     `python -m tests.oracle RUN`: checks a recorded run again
"""
