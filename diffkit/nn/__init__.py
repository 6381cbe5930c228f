"""The parts of the networks, and their assembly."""
