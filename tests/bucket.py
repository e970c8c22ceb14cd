"""A storage in memory that answers for gs:// and fails as often as it is told."""

from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """Answers for gs://; the next `failures` reads break off, and with each the opened file."""

    protocol = ("gs", "gcs")
    store, pseudo_dirs = {}, [""]
    failures = reads = 0

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("gs://").removeprefix("gcs://").strip("/")

    def _open(self, path, *args, **kwargs):
        file = super()._open(path, *args, **kwargs)
        plain, broken = type(file).read, []

        def flaky(*sizes):
            Bucket.reads += 1
            if Bucket.failures and not broken:
                Bucket.failures -= 1
                broken.append(True)
            if broken:
                raise ConnectionResetError("the connection was reset")
            return plain(file, *sizes)

        file.read = flaky
        return file
