"""A verifier people can use: recordings in, decisions out."""
