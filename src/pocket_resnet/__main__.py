"""python -m pocket_resnet is pocket-resnet."""

from pocket_resnet.cli.main import main

main()
