"""What people type: one module per subcommand of `python -m bula`."""
