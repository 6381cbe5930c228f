import json

import pytest
from pydantic import ValidationError

from diffkit.data.base import DataInfo, Dataset
from diffkit.errors import DataError

TABLE = {"kind": "unspecified", "channels": 1, "height": 8, "width": 12, "classes": ["cat", "dog"]}


def test_says_what_is_written_out():
    assert Dataset.choose(TABLE).info() == DataInfo(1, 8, 12, ("cat", "dog"))


def test_cannot_be_trained_on():
    with pytest.raises(DataError, match=r"not known which images.*sampled from but not trained on.*1x8x12"):
        Dataset.choose(TABLE).open()


def test_names_of_classes_differ():
    with pytest.raises(ValidationError, match="cat more than once"):
        Dataset.choose({**TABLE, "classes": ["cat", "cat"]})


def test_written_and_read_again_it_is_the_same():
    data = Dataset.choose(TABLE)
    assert Dataset.choose(json.loads(data.model_dump_json())) == data
