"""One module a stage: its options and the function that runs it."""
