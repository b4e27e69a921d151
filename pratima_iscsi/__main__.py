"""``python -m pratima_iscsi``: the same as ``pratima``."""

from pratima_iscsi.cli import main

if __name__ == "__main__":
    main()
