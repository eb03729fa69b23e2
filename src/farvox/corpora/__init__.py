"""One corpus, one file, one ``prepare_<corpus>(source, out)``."""
