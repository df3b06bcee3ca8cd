"""Train a network of Detectron2 with an embedding head; `python tools/train_detectron2.py --help` lists the options."""

from objemb.cli.programs.train_detectron2 import main

if __name__ == "__main__":
    main()
