"""Memory of keys and values: what is remembered, how it is read, what is given up when it is full."""
