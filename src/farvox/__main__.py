"""``python -m farvox`` is the ``farvox`` command."""

from farvox.cli.main import main

raise SystemExit(main())
