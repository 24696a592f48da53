"""`python -m service.cli`, the same as `remit`."""

from service.cli.root import main

main()
