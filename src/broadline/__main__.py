"""The command as a module, as launchers want it: ``torchrun ... -m broadline train ...``."""

from broadline.cli import main

main()
