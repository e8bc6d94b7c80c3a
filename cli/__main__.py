"""python -m skild_physics.cli, which torchrun takes where it does not take a command."""

from skild_physics.cli.main import main

main()
