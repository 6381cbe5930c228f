import pytest


@pytest.fixture
def tiny_document(tiny):
    """The plain tables of the tiny recipe, with all defaults."""
    return tiny().model_dump(exclude_none=True)
