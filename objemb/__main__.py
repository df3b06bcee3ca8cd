"""`python -m objemb`: the `objemb` command where its script is not on the path, as with `pip install --target`."""

from objemb.cli.main import main

if __name__ == "__main__":
    main()
