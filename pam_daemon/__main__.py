"""`python -m pam_daemon` is `pamd`."""

from pam_daemon.cli import main

main()
