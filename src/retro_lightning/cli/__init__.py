"""The command line. Kept free of imports, so that ``--help`` and ``--version`` are quick."""
