"""`objemb prepare-data`, from a checkout; `python tools/prepare_data.py --help` lists the options."""

import sys

from objemb.cli.main import main

if __name__ == "__main__":
    main(["prepare-data", *sys.argv[1:]])
