"""`objemb train`, from a checkout; `python tools/train.py --help` lists the options."""

import sys

from objemb.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
