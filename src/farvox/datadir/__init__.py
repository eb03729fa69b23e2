"""Kaldi-style data dirs: read, write, check, combine, pack; and the embeddings made of them."""
