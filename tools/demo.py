"""`objemb demo`, from a checkout; `python tools/demo.py --help` lists the options."""

import sys

from objemb.cli.main import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
