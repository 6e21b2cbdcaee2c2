"""Every command line of `python -m wanact`; one file a command, each with `main(argv)`."""
