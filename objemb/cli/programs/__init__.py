"""The larger programs of `objemb`: training, evaluation, data sets, the demo; each a module with `main` and `run`."""
