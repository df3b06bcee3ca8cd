"""The larger programs of `objemb`: training, evaluation, data sets, the demo. Each is a module with `main` and
`run`."""
