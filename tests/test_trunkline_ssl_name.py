"""The package `ssl` and the standard library's `ssl` live under one name, wherever and however Python is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PLACES = ("checkout", "wheel", "editable")

BOTH = """
import sys, ssl, ssl.pretrain, asyncio, urllib.request, pickle
assert "torch" not in sys.modules, "import ssl loads torch"
assert callable(ssl.pretrain.main)
context = ssl.create_default_context()
assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
for member in (ssl.TLSVersion.TLSv1_3, ssl.CERT_REQUIRED, ssl.OP_NO_SSLv3, ssl.PROTOCOL_TLS_CLIENT):
    assert pickle.loads(pickle.dumps(member)) is member
assert isinstance(urllib.request.HTTPSHandler(context=context), urllib.request.HTTPSHandler)
assert ssl.SSLError.__module__ == "ssl" and issubclass(ssl.SSLCertVerificationError, ValueError)
print("both")
"""
THREADS = """
import threading
gate, failures = threading.Barrier(8), []
def load(number):
    gate.wait()
    try:
        import ssl
        ssl.create_default_context()
        import ssl.pretrain
        import urllib.request
        ssl.TLSVersion, ssl.pretrain.main
    except BaseException as error:
        failures.append((number, repr(error)))
threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not failures, failures
print("both")
"""
POOLS = """
import multiprocessing
from both import check
if __name__ == "__main__":
    for method in ("spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(check, range(4)) == ["TLSv1_3"] * 4, method
    print("both")
"""
BOTH_MODULE = """
def check(_=0):
    import ssl, ssl.pretrain
    ssl.create_default_context()
    assert ssl.pretrain.main
    return ssl.TLSVersion.TLSv1_3.name
if __name__ == "__main__":
    print(check())
"""
LOADERS = """
import torch
from both import check
class Names(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, index): return check()
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        loader = torch.utils.data.DataLoader(Names(), batch_size=2, num_workers=1, multiprocessing_context=method)
        assert [name for batch in loader for name in batch] == ["TLSv1_3"] * 4, method
    print("both")
"""
HANDSHAKE = """
import socket, ssl, ssl.pretrain, sys, threading
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain("cert.pem", "key.pem")
listener = socket.create_server(("127.0.0.1", 0))
def serve():
    with server.wrap_socket(listener.accept()[0], server_side=True) as stream:
        stream.sendall(stream.recv(100).upper())
threading.Thread(target=serve).start()
client = ssl.create_default_context(cafile="cert.pem")
with client.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname="localhost") as stream:
    stream.sendall(b"both")
    assert stream.recv(100) == b"BOTH"
    assert stream.version() == "TLSv1.3"
print("both")
"""


class Python:
    """An interpreter of a fresh environment that borrows heavy packages from the one that runs the tests."""

    def __init__(self, folder: Path, work: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.path = folder / "bin" / "python"
        self.work = work
        site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        Path(site, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "PYTEST"))
        }
        done = subprocess.run(
            [self.path, *arguments],
            cwd=cwd or self.work,
            env=environment,
            text=True,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pip(self, *arguments: str | Path) -> str:
        return self.run("-m", "pip", "-q", "--disable-pip-version-check", *arguments, cwd=self.work)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that is built from the sdist, as an index would get them."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", out, REPOSITORY]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(tmp_path_factory, request) -> Callable[[str], Python]:
    made: dict[str, Python] = {}

    def get(place: str) -> Python:
        if place not in made:
            folder = tmp_path_factory.mktemp(place)
            work = REPOSITORY if place == "checkout" else folder / "elsewhere"
            work.mkdir(exist_ok=True)
            made[place] = Python(folder / "venv", work)
            if place == "wheel":
                made[place].pip(
                    "install",
                    "--no-deps",
                    "--no-index",
                    "--ignore-installed",
                    request.getfixturevalue("wheel"),
                )
            elif place == "editable":
                made[place].pip(
                    "install",
                    "--no-deps",
                    "--no-index",
                    "--ignore-installed",
                    "--no-build-isolation",
                    "-e",
                    REPOSITORY,
                )
        return made[place]

    return get


def test_wheel_and_sdist_carry_every_package_and_the_line_that_runs_at_start(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"trunkline.pth", "ssl/__init__.py", "ssl/pretrain.py", "encoder/__init__.py"} <= names
    assert {
        "heads/__init__.py",
        "embstore/__init__.py",
        "rescoring/__init__.py",
        "trunkline/__main__.py",
    } <= names
    assert not any(
        name.startswith(("tests/", "examples/", "benchmarks/", "conftest")) for name in names
    )
    assert next(wheel.parent.glob("*.tar.gz"))


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_the_standard_module_works_beside_the_package(python, place):
    assert python(place).run("-c", BOTH) == "both\n"


@pytest.mark.parametrize("place", PLACES)
def test_eight_threads_may_import_at_once(python, place):
    for _ in range(3):
        assert python(place).run("-c", THREADS) == "both\n"


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_spawned_and_forkserver_workers_find_the_package(python, place, tmp_path):
    (tmp_path / "both.py").write_text(BOTH_MODULE)
    (tmp_path / "pools.py").write_text(POOLS)
    if place == "checkout":
        for name in ("trunkline", "ssl"):
            (tmp_path / name).symlink_to(REPOSITORY / name)
    assert python(place).run("-m", "pools", cwd=tmp_path) == "both\n"


@pytest.mark.slow
def test_data_loader_workers_find_the_package(python, tmp_path):
    (tmp_path / "both.py").write_text(BOTH_MODULE)
    (tmp_path / "loaders.py").write_text(LOADERS)
    assert python("wheel").run(tmp_path / "loaders.py") == "both\n"


@pytest.mark.slow
def test_torchrun_starts_modules_of_the_package(python, tmp_path):
    (tmp_path / "both.py").write_text(BOTH_MODULE)
    launch = ("-m", "torch.distributed.run", "--standalone")
    assert "Example" in python("wheel").run(
        *launch, "--nproc-per-node=1", "-m", "ssl.pretrain", "--help"
    )
    assert (
        python("wheel").run(*launch, "--nproc-per-node=2", "-m", "both", cwd=tmp_path)
        == "TLSv1_3\n" * 2
    )


@pytest.mark.parametrize("place", PLACES)
def test_a_client_and_a_server_shake_hands(python, place, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip(
            "the openssl program, which makes the certificate of this test, is not installed"
        )
    request = f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key.pem -out cert.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*request.split(), *names], check=True, cwd=tmp_path, capture_output=True)
    change = (
        f"import sys, os; sys.path[0] = sys.path[0] or os.getcwd(); os.chdir({str(tmp_path)!r})\n"
    )
    assert python(place).run("-c", change + HANDSHAKE) == "both\n"


def test_pytest_itself_sees_both():
    import ssl
    import ssl.pretrain

    assert ssl.create_default_context().check_hostname
    assert callable(ssl.pretrain.main)


@pytest.mark.slow
@pytest.mark.parametrize(
    "start", [[Path(sys.executable).with_name("pytest")], [sys.executable, "-m", "pytest"]]
)
def test_both_ways_to_start_pytest_see_both(start):
    name = "tests/test_trunkline_ssl_name.py::test_pytest_itself_sees_both"
    done = subprocess.run(
        [*start, "-q", "-p", "no:cacheprovider", name],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_standard_module_that_was_imported_first_learns_where_the_package_is(python, tmp_path):
    code = f"""
import sys, ssl
first = ssl.SSLContext
assert not hasattr(ssl, "__path__")
sys.path.append({str(REPOSITORY)!r})
from trunkline.__main__ import main
import ssl.pretrain
assert ssl.SSLContext is first and ssl.pretrain.main
main(["pretrain", "--help"])
"""
    bare = Python(tmp_path / "venv", tmp_path)
    assert "Example" in bare.run("-c", code)


def test_the_package_is_found_where_start_up_lines_are_forbidden_if_the_command_comes_first(
    wheel, tmp_path
):
    bare = Python(tmp_path / "venv", tmp_path)
    bare.pip(
        "install",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
        "--target",
        tmp_path / "target",
        wheel,
    )
    code = f"import sys; sys.path.append({str(tmp_path / 'target')!r}); import trunkline.__main__\n"
    assert bare.run("-c", code + BOTH) == "both\n"


def test_other_names_and_folders_called_ssl_are_left_alone(tmp_path):
    (tmp_path / "ssl").mkdir()
    (tmp_path / "ssl" / "__init__.py").write_text("")
    bare = Python(tmp_path / "venv", tmp_path / "venv")
    code = f"""
import sys
sys.path[:] = [{str(tmp_path)!r}, *[x for x in sys.path if x]]
sys.path.append({str(REPOSITORY)!r})
from trunkline.sslpath import SslFinder
assert SslFinder.find_spec("json") is None
assert SslFinder.find_spec("ssl").origin == {str(REPOSITORY / "ssl" / "__init__.py")!r}
sys.path.remove({str(REPOSITORY)!r})
assert SslFinder.find_spec("ssl") is None
"""
    bare.run("-c", code)


@pytest.mark.slow
def test_uninstalling_leaves_a_clean_interpreter(wheel, tmp_path):
    fresh = Python(tmp_path / "venv", tmp_path)
    fresh.pip("install", "--no-deps", "--no-index", "--ignore-installed", wheel)
    assert fresh.run("-c", BOTH) == "both\n"
    fresh.pip("uninstall", "-y", "trunkline")
    code = """
import sys, ssl
assert not hasattr(ssl, "__path__") and "trunkline" not in sys.modules
print(ssl.__file__)
"""
    assert str(tmp_path) not in fresh.run("-c", code)
    left = [
        path.name
        for path in (tmp_path / "venv").rglob("*")
        if "trunkline" in path.name or path.name == "ssl"
    ]
    assert left == []
