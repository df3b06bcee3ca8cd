"""`objemb evaluate`, from a checkout; `python tools/evaluate.py --help` lists the options."""

import sys

from objemb.cli.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
