import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.files import read_json


def test_object_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "cannot be read"), ("{", "is not JSON"), ("[]", "holds no JSON object")]
)
def test_file_without_an_object_is_named_with_the_remedy(tmp_path, content, problem):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputFileError, match=rf"a\.json: {problem}.*; copy it$"):
        read_json(path, remedy="copy it")
