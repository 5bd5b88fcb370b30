"""Readers of data sets, one module for each layout. A reader lists paths and decodes no pixels."""
