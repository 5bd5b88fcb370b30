"""What is on disk, how it is opened, and how clips are made of it. Never imports networks."""
