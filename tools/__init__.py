"""Programs of the checkout: a package, so that no other one of this name on the path of Python takes its place."""
