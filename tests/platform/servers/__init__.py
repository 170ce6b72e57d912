"""Real servers for tests, from wheels, without root: see README.md."""
