"""One corpus, one file, one ``prepare_<corpus>(source, out, *, note, jobs)``.

``source`` is the unpacked corpus and ``out`` the folder of the data dirs; ``note`` is called with a line on
what is found, made or left out; ``jobs`` is the number of threads that read headers.
"""
