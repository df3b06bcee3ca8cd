"""`objemb factorize`, from a checkout; `python tools/factorize.py --help` lists the options."""

import sys

from objemb.cli.main import main

if __name__ == "__main__":
    main(["factorize", *sys.argv[1:]])
