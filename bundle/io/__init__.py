"""Read videos and masks from files, write results to files, and list the structures of object ids."""
