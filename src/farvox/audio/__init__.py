"""Sound in and out: any file, any part of it, any rate."""
