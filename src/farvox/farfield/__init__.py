"""Rooms, microphone arrays, noise fields, mixing, beamforming and dereverberation; numpy only."""
