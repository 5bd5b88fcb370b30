"""Read videos and masks from files of many formats, lazily and within size limits."""
