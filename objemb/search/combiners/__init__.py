"""How several views of an object become one query."""
