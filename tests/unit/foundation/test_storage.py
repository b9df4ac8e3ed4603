"""What every store promises, as one suite that each store's tests inherit; and what only one of them can do."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import fsspec
import pytest

from orchestrator.errors import StorageError
from orchestrator.foundation.storage import LocalStore, RemoteStore, Store, open_store, write_atomically


class StoreContract:
    """Inherit it and provide a `store` fixture: an empty folder."""

    def test_what_is_written_is_read(self, store: Store) -> None:
        store.write("a/b/notes.txt", "grüße\n")
        assert store.read("a/b/notes.txt") == "grüße\n"
        store.write("a/b/notes.txt", "again\n")
        assert store.read("a/b/notes.txt") == "again\n"

    def test_what_is_not_there_is_told_apart_from_trouble(self, store: Store) -> None:
        with pytest.raises(FileNotFoundError):
            store.read("missing.txt")
        assert not store.exists("missing.txt")
        assert store.list() == store.list("missing") == []
        assert store.tail("missing.jsonl") == ("", 0)
        store.remove("missing.txt")

    def test_files_and_folders_exist(self, store: Store) -> None:
        store.write("folder/file.txt", "x")
        assert store.exists("folder/file.txt")
        assert store.exists("folder")
        assert not store.exists("fold")

    def test_a_folder_is_listed_in_order_and_not_deeply(self, store: Store) -> None:
        for name in ("c.txt", "a.txt", "b/deep.txt", "b/deeper/still.txt"):
            store.write(name, "x")
        assert store.list() == ["a.txt", "b", "c.txt"]
        assert store.list("b") == ["deep.txt", "deeper"]

    def test_a_child_is_the_folder_of_that_name(self, store: Store) -> None:
        store.child("inner").write("file.txt", "x")
        assert store.read("inner/file.txt") == "x"

    def test_a_growing_file_is_read_as_it_grows(self, store: Store) -> None:
        store.append("log/events.jsonl", "1\n2\n")
        text, cursor = store.tail("log/events.jsonl")
        assert text == "1\n2\n"
        assert store.tail("log/events.jsonl", cursor) == ("", cursor)
        store.append("log/events.jsonl", "3\n")
        store.append("log/events.jsonl", "4\n")
        text, cursor = store.tail("log/events.jsonl", cursor)
        assert text == "3\n4\n"
        assert store.tail("log/events.jsonl", cursor) == ("", cursor)
        assert store.tail("log/events.jsonl")[0] == "1\n2\n3\n4\n"
        assert store.list("log") == ["events.jsonl"]

    @pytest.mark.parametrize("limit", [1, 4, 5, 11, 1000])
    def test_a_growing_file_is_read_in_parts_of_whole_lines(self, store: Store, limit: int) -> None:
        for number in range(10):
            store.append("events.jsonl", f"{number:04d}\n")
        parts, cursor = [], 0
        while True:
            text, cursor = store.tail("events.jsonl", cursor, limit)
            if not text:
                break
            parts.append(text)
        assert "".join(parts).split() == [f"{number:04d}" for number in range(10)]
        assert all(part.endswith("\n") and len(part) <= max(5, limit + 4) for part in parts)

    def test_another_writer_goes_on_where_the_first_one_ended(self, store: Store) -> None:
        store.append("events.jsonl", "1\n")
        open_store(store.root).append("events.jsonl", "2\n")
        assert store.tail("events.jsonl")[0] == "1\n2\n"

    def test_a_growing_file_is_gathered_into_one_file(self, store: Store, tmp_path: Path) -> None:
        for number in range(12):
            store.append("logs/rank-0.log", f"{number}\n")
        gathered = store.gather("logs/rank-0.log", tmp_path / "scratch")
        assert gathered.name == "rank-0.log"
        assert gathered.read_text().split() == [str(number) for number in range(12)]

    def test_a_folder_goes_up_and_comes_back(self, store: Store, tmp_path: Path) -> None:
        folder = made_folder(tmp_path / "made", {"model.json": b"{}", "deep/er/weights.bin": bytes(range(256))})
        store.upload(folder, "there/model")
        (tmp_path / "back").mkdir()
        back = store.download("there/model", tmp_path / "back")
        assert back.name == "model"
        assert (back / "deep/er/weights.bin").read_bytes() == bytes(range(256))
        assert (back / "model.json").read_bytes() == b"{}"
        assert sorted(path.name for path in back.iterdir()) == ["deep", "model.json"]

    def test_a_folder_that_is_not_there_comes_back_as_one_that_is_not_there(self, store: Store, tmp_path: Path) -> None:
        assert not store.download("model", tmp_path / "scratch").exists()

    def test_files_and_whole_folders_are_removed(self, store: Store) -> None:
        for name in ("a/1.txt", "a/b/2.txt", "c.txt"):
            store.write(name, "x")
        store.remove("a")
        store.remove("c.txt")
        assert store.list() == []

    def test_a_writable_place_keeps_nothing_of_the_probe(self, store: Store) -> None:
        store.check_writable()
        assert store.list() == []

    def test_readers_see_whole_files_while_a_writer_replaces_them(self, store: Store) -> None:
        texts = {str(digit) * 5000 for digit in range(10)}
        store.write("file.txt", "0" * 5000)
        done = threading.Event()

        def write() -> None:
            for text in itertools.islice(itertools.cycle(sorted(texts)), 60):
                store.write("file.txt", text)
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        while not done.is_set():
            assert store.read("file.txt") in texts
        thread.join()


class TestLocal(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        (tmp_path / "runs").mkdir()
        return open_store(str(tmp_path / "runs"))

    def test_a_crash_before_the_rename_leaves_the_old_content(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.write("run.json", "old")

        def crash(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", crash)
            with pytest.raises(KeyboardInterrupt):
                store.write("run.json", "new")
        assert store.read("run.json") == "old"
        assert store.list() == ["run.json"]

    def test_a_disk_that_takes_a_part_is_asked_for_the_rest(self) -> None:
        from orchestrator.foundation.storage import _write_all

        class Narrow:
            taken = b""

            def write(self, data: memoryview) -> int:
                self.taken += bytes(data[:3])
                return len(data[:3])

        narrow = Narrow()
        _write_all(narrow, b"0123456789\n")  # type: ignore[arg-type]
        assert narrow.taken == b"0123456789\n"

    def test_a_crash_while_copying_leaves_the_old_folder(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.upload(made_folder(tmp_path / "old", {"model.json": b"old"}), "model")
        newer = made_folder(tmp_path / "new", {"model.json": b"new"})

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("shutil.copytree", full)
            with pytest.raises(StorageError, match=r"Cannot write .*model: No space left on device\."):
                store.upload(newer, "model")
        assert store.read("model/model.json") == "old"
        store.upload(newer, "model")
        assert store.read("model/model.json") == "new"
        assert store.list() == ["model"]

    def test_a_line_that_is_still_being_written_waits(self, store: Store, tmp_path: Path) -> None:
        file = tmp_path / "runs" / "events.jsonl"
        file.write_text("1\n2")
        text, cursor = store.tail("events.jsonl")
        assert text == "1\n"
        with file.open("a") as growing:
            growing.write("2\n3\n")
        assert store.tail("events.jsonl", cursor)[0] == "22\n3\n"

    def test_what_follows_a_torn_line_is_a_line_of_its_own(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "runs" / "events.jsonl").write_text('1\n{"to')
        store.append("events.jsonl", "2\n")
        assert store.tail("events.jsonl")[0] == '1\n{"to\n2\n'

    def test_trouble_is_told_with_place_and_reason(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        inside_a_file = LocalStore(str(tmp_path / "file"))
        with pytest.raises(
            StorageError, match=r"Cannot write .*/file/run.json: (Not a directory|File exists)\."
        ) as caught:
            inside_a_file.write("run.json", "x")
        assert caught.value.hint == "Set storage.path to a folder or URL you can write to."
        with pytest.raises(StorageError, match="Cannot write"):
            inside_a_file.append("events.jsonl", "x\n")
        with pytest.raises(StorageError, match="Cannot write"):
            inside_a_file.check_writable()
        store.write("folder/file", "x")
        with pytest.raises(StorageError, match=r"Cannot read .*/folder: Is a directory\."):
            store.read("folder")

    def test_others_may_read_what_we_write(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "file", b"x")
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


class TestRemote(StoreContract):
    @pytest.fixture
    def store(self, request: pytest.FixtureRequest) -> Store:
        # The file system in memory is one for the whole process: each test has a folder of its own.
        return open_store(f"memory://{request.node.name.replace('[', '-')}/runs")

    def test_it_is_chosen_by_the_form_of_the_path(self, store: Store) -> None:
        assert isinstance(store, RemoteStore)

    def test_pieces_keep_their_order_beyond_nine(self, store: Store) -> None:
        for number in range(25):
            store.append("events.jsonl", f"{number}\n")
        assert store.tail("events.jsonl")[0].split() == [str(number) for number in range(25)]
        assert store.tail("events.jsonl", 20) == ("20\n21\n22\n23\n24\n", 25)

    def test_following_a_file_does_not_list_it(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        store.append("events.jsonl", "1\n")
        _, cursor = store.tail("events.jsonl")
        store.append("events.jsonl", "2\n")

        def listed(_: object, name: str = "") -> list[str]:
            raise AssertionError(f"{name} was listed")

        monkeypatch.setattr(RemoteStore, "list", listed)
        assert store.tail("events.jsonl", cursor) == ("2\n", 2)

    def test_what_describes_the_others_comes_last(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = made_folder(tmp_path / "model", {"model.json": b"{}", "weights.bin": b"x", "a.txt": b"x"})
        put: list[str] = []
        monkeypatch.setattr(store.fs, "put_file", lambda source, target: put.append(Path(target).name))  # type: ignore[attr-defined]
        store.upload(folder, "model")
        assert put == ["a.txt", "weights.bin", "model.json"]

    def test_workers_add_their_files_to_one_folder(self, store: Store, tmp_path: Path) -> None:
        for rank in (0, 1):
            store.upload(made_folder(tmp_path / str(rank), {f"shard-{rank}.bin": b"x"}), "step-1")
        assert store.list("step-1") == ["shard-0.bin", "shard-1.bin"]

    @pytest.mark.parametrize("operation", ["write", "read", "exists", "list", "append", "tail"])
    def test_whatever_a_store_raises_becomes_one_error(
        self, store: Store, operation: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class OutOfReach(Exception):
            """Like botocore's errors, which are no OSErrors."""

        def unreachable(*_: object, **__: object) -> None:
            raise OutOfReach("Could not connect to the endpoint URL.")

        for name in ("pipe_file", "cat_file", "info", "ls"):
            monkeypatch.setattr(store.fs, name, unreachable)  # type: ignore[attr-defined]
        arguments = ("name", "text\n")[: 2 if operation in ("write", "append") else 1]
        with pytest.raises(
            StorageError, match=r"Cannot (read|write) memory://.*: Could not connect to the endpoint URL\. "
        ):
            getattr(store, operation)(*arguments)

    def test_an_append_that_failed_can_be_made_again(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        store.append("events.jsonl", "1\n")

        def unreachable(*_: object, **__: object) -> None:
            raise OSError("no route")

        with monkeypatch.context() as patched:
            patched.setattr(store.fs, "pipe_file", unreachable)  # type: ignore[attr-defined]
            with pytest.raises(StorageError):
                store.append("events.jsonl", "2\n")
        store.append("events.jsonl", "2\n")
        assert store.tail("events.jsonl") == ("1\n2\n", 2)

    def test_a_kind_of_url_that_nobody_knows_is_refused(self) -> None:
        with pytest.raises(
            StorageError, match=r"Storage nowhere://there cannot be reached: Protocol not known: nowhere"
        ):
            open_store("nowhere://there")

    def test_a_pattern_is_refused(self) -> None:
        with pytest.raises(StorageError, match=r"Storage memory://runs\[1\] has one of \* \? \[ in it"):
            open_store("memory://runs[1]")

    def test_what_is_missing_for_s3_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def lacking(*_: object, **__: object) -> None:
            raise ImportError("Install s3fs to access S3")

        monkeypatch.setattr(fsspec.core, "url_to_fs", lacking)
        with pytest.raises(
            StorageError, match=r"Install s3fs to access S3\. For S3: pip install 'orchestrator\[s3\]'\."
        ):
            open_store("s3://bucket/runs")


class TestFolderBehindUrl(StoreContract):
    """A store that needs its folders to be made, which object stores do not."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return open_store(f"local://{tmp_path}/runs")

    # fsspec writes local files in place: a folder is to be named without a URL.
    test_readers_see_whole_files_while_a_writer_replaces_them = None


def made_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
