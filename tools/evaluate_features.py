"""`objemb evaluate-features`, from a checkout; `python tools/evaluate_features.py --help` lists the options."""

import sys

from objemb.cli.main import main

if __name__ == "__main__":
    main(["evaluate-features", *sys.argv[1:]])
