"""`objemb analysis`, from a checkout; `python tools/analysis.py --help` lists the options."""

import sys

from objemb.cli.main import main

if __name__ == "__main__":
    main(["analysis", *sys.argv[1:]])
