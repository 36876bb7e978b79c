"""Small documents: a folder and a bucket behave alike, and no name leads elsewhere."""

from pathlib import Path

import pytest

from perception.data.documents import Documents, open_documents
from perception.errors import InputError
from tests.conftest import S3Server


def check_documents(documents: Documents) -> None:
    assert documents.names() == []
    assert documents.read("a.json") is None
    documents.write("score@0.json", b"0")
    documents.write("a.json", b"1")
    documents.write("a.json", b"2")
    assert documents.read("a.json") == b"2"
    assert documents.names() == ["a.json", "score@0.json"]
    for wrong in ("../a.json", "b/a.json", ".hidden", "", "a\0"):
        with pytest.raises(InputError, match="rename it"):
            documents.write(wrong, b"")


def test_documents_of_a_folder(tmp_path: Path) -> None:
    check_documents(open_documents(str(tmp_path / "deep" / "place")))
    (tmp_path / "deep" / "place" / "folder").mkdir()
    assert open_documents(str(tmp_path / "deep" / "place")).names() == ["a.json", "score@0.json"]
    (tmp_path / "file").write_text("")
    assert open_documents(str(tmp_path / "file")).read("a.json") is None
    with pytest.raises(InputError, match=r"folder: cannot be read \(Is a directory\)"):
        open_documents(str(tmp_path / "deep" / "place")).read("folder")
    with pytest.raises(InputError, match="cannot be written"):
        open_documents(str(tmp_path / "file")).write("a.json", b"")


@pytest.mark.s3
def test_documents_of_a_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    check_documents(open_documents(f"s3://{s3_server.bucket}/documents/place"))
    open_documents(f"s3://{s3_server.bucket}/documents/place/report").write("report.html", b"")
    assert open_documents(f"s3://{s3_server.bucket}/documents/place").names() == ["a.json", "score@0.json"]
