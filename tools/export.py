"""`objemb export`, from a checkout; `python tools/export.py --help` lists the options."""

import sys

from objemb.cli.main import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
