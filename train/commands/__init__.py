"""Every command line of `python -m train` beside the stages; one file a command, each with `main(argv)`."""
