"""Memory of keys and values: what is remembered, how it is read, what is dropped when full."""
