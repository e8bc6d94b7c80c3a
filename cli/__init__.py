"""The skild-physics command line: one file per command."""
