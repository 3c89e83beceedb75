"""The ``vidgen`` command; each command is a module that imports nothing heavy until it runs."""
