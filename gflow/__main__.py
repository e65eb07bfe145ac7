"""`python -m gflow` is the command `gflow`."""

from .cli import main

main(prog_name="gflow")
