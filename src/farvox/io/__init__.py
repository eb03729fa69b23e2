"""Bytes in, bytes out: atomic files, audio, Kaldi-style data dirs, embedding sets."""
