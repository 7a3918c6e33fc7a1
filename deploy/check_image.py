"""Runs the steps of the Dockerfile without a container engine, then runs what it made, and says what happened.

The base image is stood in for by a Debian made by debootstrap, with its Python 3.11; every step is read from the Dockerfile and done in
a chroot. What comes out is started as the image would be: its user, its entry point, its health check, a read-only root, no capabilities.
Needs root, debootstrap and util-linux. The package index is whatever pip on this machine uses; nothing of that stays in the result.

    python deploy/check_image.py [--target cpu] [--keep FOLDER] [--build-only]
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from deploy.dockerfile import Dockerfile, Instruction, Stage, context_files, expand, read_dockerfile  # noqa: E402

SUITE = "bookworm"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
BUILD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_LIMIT_S = 120.0
STOP_LIMIT_S = 75.0
_LENT_FILES = ("/etc/resolv.conf", "/etc/pip.conf", "/root/.config/pip/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
_LENT_VARIABLES = ("PIP_", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")


class CheckFailed(Exception):
    """The image is not as it should be; the message says how."""


class Build:
    """The stages as folders below `folder`."""

    def __init__(self, dockerfile: Dockerfile, folder: Path) -> None:
        self._dockerfile = dockerfile
        self._folder = folder
        self._made: dict[str, Path] = {}

    def make(self, name: str) -> Path:
        """Make a stage and what it needs; gives its root folder."""
        if name in self._made:
            return self._made[name]
        names = {stage.name for stage in self._dockerfile.stages}
        if name not in names:
            return self._make_base(name)
        stage = self._dockerfile.stage(name)
        base = self.make(stage.base)
        root = self._folder / name
        subprocess.run(["cp", "--archive", "--reflink=auto", str(base), str(root)], check=True)
        began = time.monotonic()
        self._follow(stage, root)
        print(f"stage {name}: {time.monotonic() - began:.1f} s, {_megabytes(root)} MB", flush=True)
        self._made[name] = root
        return root

    def _make_base(self, name: str) -> Path:
        root = self._folder / "base"
        began = time.monotonic()
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CheckFailed(f"debootstrap: {done.stdout[-500:]} {done.stderr[-500:]}")
        for program, target in (("python", "/usr/bin/python3"), ("python3", "/usr/bin/python3"), ("pip", "/usr/bin/pip3")):
            (root / "usr/local/bin" / program).symlink_to(target)
        print(f"base, standing in for {name}: {time.monotonic() - began:.1f} s, {_megabytes(root)} MB", flush=True)
        self._made[name] = root
        return root

    def _follow(self, stage: Stage, root: Path) -> None:
        inherited = self._dockerfile.environment(stage.base) if stage.base in self._made and self._is_stage(stage.base) else {}
        values = {"PATH": BUILD_PATH, "HOME": "/root"} | inherited
        arguments: dict[str, str] = {}
        place = "/"
        for one in stage.instructions:
            if one.name == "ARG":
                arguments.update(one.pairs)
            elif one.name == "ENV":
                values.update({name: expand(value, values | arguments) for name, value in one.pairs.items()})
            elif one.name == "WORKDIR":
                place = one.text
                (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif one.name == "COPY":
                self._copy(one, root, place)
            elif one.name == "RUN":
                _run_step(root, place, one.text, values | arguments)

    def _is_stage(self, name: str) -> bool:
        return name in {stage.name for stage in self._dockerfile.stages}

    def _copy(self, one: Instruction, root: Path, place: str) -> None:
        *sources, target = one.arguments
        into = root / str(Path(place) / target).lstrip("/")
        origin = self.make(one.flags["from"]) if "from" in one.flags else None
        for source in sources:
            files = [Path(source.lstrip("/"))] if origin else [path for path in context_files(ROOT) if path.is_relative_to(Path(source))]
            if not files:
                raise CheckFailed(f"line {one.line}: COPY {source}: no such thing in the build context")
            for relative in files:
                from_path = (origin or ROOT) / relative
                inside = Path() if origin else relative.relative_to(Path(source))
                as_folder = target.endswith("/") and not (origin or ROOT).joinpath(source.lstrip("/")).is_dir()
                to_path = into / from_path.name if as_folder else into / inside
                to_path.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "--archive", "--no-target-directory", str(from_path), str(to_path)], check=True)
                if origin is None:
                    os.chown(to_path, 0, 0)


def _run_step(root: Path, place: str, command: str, values: Mapping[str, str]) -> None:
    lent = {name: value for name, value in os.environ.items() if name.startswith(_LENT_VARIABLES)}
    mounts = ["mount -t proc proc proc", "mount --rbind /dev dev"]
    left = []
    for name in _LENT_FILES:
        if Path(name).is_file():
            here = root / name.lstrip("/")
            if not here.exists():
                here.parent.mkdir(parents=True, exist_ok=True)
                here.touch()
                left.append(here)
            mounts.append(f"mount --bind {name} {name.lstrip('/')}")
    script = " && ".join([f"cd {shlex.quote(str(root))}", *mounts, f"exec chroot . /bin/sh -c {shlex.quote(f'cd {place} && {command}')}"])
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "/bin/sh", "-c", script],
        env={**lent, **values},
        capture_output=True,
        text=True,
        check=False,
    )
    for here in left:
        here.unlink()
    if done.returncode:
        raise CheckFailed(f"RUN {command[:100]}…: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


class Container:
    """What was built, started as an engine would: user, working folder, variables, read-only root, /tmp in memory, /data a folder."""

    def __init__(self, dockerfile: Dockerfile, target: str, root: Path, data: Path) -> None:
        self._root, self._data = root, data
        self.environment = dockerfile.environment(target)
        user = dockerfile.last(target, "USER")
        self._uid, _, self._gid = (user.text if user else "0:0").partition(":")
        place = dockerfile.last(target, "WORKDIR")
        self._place = place.text if place else "/"
        data.mkdir(exist_ok=True)
        os.chown(data, int(self._uid), int(self._gid or self._uid))

    def command(self, *words: str, **variables: str) -> list[str]:
        """The command that runs `words` inside, with the image's variables and no others but these."""
        root, data = shlex.quote(str(self._root)), shlex.quote(str(self._data))
        inside = f"cd {self._place} && exec {shlex.join(words)}"
        user = f"--reuid {self._uid} --regid {self._gid or self._uid} --clear-groups"
        subreaper = {"TINI_SUBREAPER": "1"}  # it is not process 1 here
        values = shlex.join(f"{name}={value}" for name, value in (self.environment | subreaper | variables).items())
        become = f"/usr/bin/env -i {values} setpriv {user} --no-new-privs --bounding-set=-all --inh-caps=-all"
        script = " && ".join(
            [
                f"mount --bind {root} {root}",
                f"cd {root}",
                "mount -t proc proc proc",
                "mount --rbind /dev dev",
                "mount -t tmpfs -o size=64m,mode=1777 tmpfs tmp",
                f"mount --bind {data} data",
                "mount -o remount,bind,ro .",
                # chroot needs a capability that setpriv drops, so it comes first
                f"exec chroot . {become} /bin/sh -c {shlex.quote(inside)}",
            ]
        )
        return ["unshare", "--mount", "/bin/sh", "-c", script]

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(self.command(*words, **variables), capture_output=True, text=True, check=False, timeout=300)

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        """Start and leave running; standard error is the log."""
        return subprocess.Popen(self.command(*words, **variables), stderr=subprocess.PIPE, text=True)


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _megabytes(folder: Path) -> int:
    return int(subprocess.run(["du", "-sm", str(folder)], capture_output=True, text=True, check=True).stdout.split()[0])


def _expect(truth: bool, claim: str, detail: str = "") -> None:
    if not truth:
        raise CheckFailed(f"{claim}: no. {detail}")
    print(f"{claim}: yes", flush=True)


def _words(dockerfile: Dockerfile, target: str, name: str) -> list[str]:
    found = dockerfile.last(target, name)
    if found is None or not found.exec_form:
        raise CheckFailed(f"{name} is missing, or not in the exec form")
    return found.exec_form


def try_out(dockerfile: Dockerfile, target: str, root: Path, data: Path) -> None:
    """Start the service in what was built and ask it. Raises CheckFailed."""
    container = Container(dockerfile, target, root, data)
    entry, command, probe = (_words(dockerfile, target, name) for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"))
    words = [*entry, *command]
    who = container.run("python", "-c", "import os; print(os.getuid(), os.access('/opt/leukoscope', os.W_OK), os.access('/data', os.W_OK))")
    _expect(
        who.stdout.split() == ["10001", "False", "True"], "runs as a user who can write to /data and to nothing of the program", str(who)
    )
    refused = container.run(*words, LEUKOSCOPE_HTTP_HOST="0.0.0.0")  # noqa: S104  # refused is what is wanted
    _expect(refused.returncode == 2 and "tokens" in refused.stderr, "an open door without tokens is refused", refused.stderr[-300:])
    ports = {"LEUKOSCOPE_HTTP_PORT": _free_port(), "LEUKOSCOPE_DICOM_PORT": _free_port()}
    began = time.monotonic()
    process = container.start(*words, **ports)
    try:
        while (answer := container.run(*probe, **ports)).returncode and process.poll() is None and time.monotonic() - began < START_LIMIT_S:
            time.sleep(0.5)
        _expect(answer.returncode == 0, f"healthy by its own check ({time.monotonic() - began:.1f} s after the start)", answer.stderr)
        answer = container.run(*probe[:-1], "listener", **ports)
        _expect(answer.returncode == 0, "the listener answers an association request", answer.stderr)
        before = {path.name for path in data.iterdir()}
        _expect("leukoscope.sqlite" in before, "the case book is on the volume", str(before))
    finally:
        subprocess.run(["kill", "-TERM", str(process.pid)], check=False)
        try:
            _, log = process.communicate(timeout=STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, log = process.communicate()
    _expect(process.returncode == 0, "SIGTERM ends it in good order", log[-500:])
    # The demo keeps its data in a temporary folder and wants the usual reserve of free space there: not in memory.
    shown = container.run(*entry, "demo", "--output", "/data/demo-results", TMPDIR="/data")
    _expect(shown.returncode == 0, "leukoscope demo, whole way", shown.stdout[-500:] + shown.stderr[-1500:])
    print("\n".join(line for line in shown.stdout.splitlines() if any(word in line for word in ("model", "Dice", "all outputs"))))


def main() -> int:
    """Build, try, clean up."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--keep", type=Path, help="keep the folders here instead of a temporary place")
    parser.add_argument("--build-only", action="store_true", help="do not start what was built (the target gpu, where there is no card)")
    chosen = parser.parse_args()
    missing = [program for program in ("debootstrap", "unshare", "setpriv", "chroot") if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        print(f"needs root, and: {', '.join(missing) or 'nothing else'}", file=sys.stderr)
        return 2
    folder = chosen.keep or Path(tempfile.mkdtemp(prefix="leukoscope-image-"))
    folder.mkdir(parents=True, exist_ok=True)
    dockerfile = read_dockerfile(ROOT / "Dockerfile")
    try:
        root = Build(dockerfile, folder).make(chosen.target)
        program = root / "opt/leukoscope"
        print(f"the virtual environment: {_megabytes(program)} MB", flush=True)
        if not chosen.build_only:
            try_out(dockerfile, chosen.target, root, folder / "data")
    except CheckFailed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if chosen.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
