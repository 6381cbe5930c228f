"""The option by which the parsers are fuzzed for long: ``pytest tests/fuzz --fuzz-seconds 600``."""


def pytest_addoption(parser):
    parser.addoption("--fuzz-seconds", type=float, default=0.0, help="fuzz all parsers for so long together")
