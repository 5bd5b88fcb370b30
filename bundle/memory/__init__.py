"""The memory of key and value maps: storing frames, reading by attention, dropping old frames."""
