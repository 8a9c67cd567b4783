"""Everything that is to be known about the project on one GPU, in a quarter of an hour. See docs/speed.md."""
