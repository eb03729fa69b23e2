"""Rooms, arrays and noise: numpy, no torch."""
