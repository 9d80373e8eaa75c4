"""`python -m triptych`, and what torchrun starts."""

from triptych.cli import main

main()
