"""Videos and masks from files, lazily and within limits; nothing else opens them."""
