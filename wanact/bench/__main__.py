"""`python -m wanact.bench`."""

from wanact.bench.clip import main

main()
