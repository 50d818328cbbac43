"""Other libraries' models, one module a library; none is imported before it is asked for."""
