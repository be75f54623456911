"""`python -m qaios.cli` is `qai`: for a detached node, and where the script is not on the path."""

from qaios.cli.main import main

main()
