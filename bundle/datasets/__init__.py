"""Data sets: one module for each layout. Readers give records of paths, never pixels."""
