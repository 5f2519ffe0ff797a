"""action.yml: valid, and its steps run as GitHub's runner runs them: their own shell, for real."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.runner import sector_bundle
from tests.support.tools import find_tool, missing, require_tool, run

ROOT = Path(__file__).resolve().parents[1]
ACTION = ROOT / "action.yml"
SCRIPTS = ("kvm", "install", "verify")
RULE = 'KERNEL=="kvm", GROUP="kvm", MODE="0666", OPTIONS+="static_node=kvm"\n'
EXPRESSION = re.compile(r"\$\{\{ *(.*?) *\}\}")
EXPECTED = '[expected]\nmilestones = ["boot sector"]\nending = "power-off"\n'


def action() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(ACTION.read_text())
    return document


def step(name: str) -> dict[str, Any]:
    (found,) = [each for each in action()["runs"]["steps"] if each["id"] == name]
    return dict(found)


# What it says


def check_schema(path: Path) -> int:
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.github-actions", str(path)]
    return run([sys.executable, *words], check=False).returncode


def test_it_is_an_action(tmp_path: Path) -> None:
    assert check_schema(ACTION) == 0
    broken = tmp_path / "action.yml"
    broken.write_text(ACTION.read_text().replace("using: composite", "using: composition"))
    assert check_schema(broken) == 1


def test_scripts_are_clean() -> None:
    scripts = [ROOT / "tools" / "action" / f"{name}.sh" for name in SCRIPTS]
    assert sorted((ROOT / "tools" / "action").iterdir()) == sorted(scripts)
    run([require_tool("shellcheck"), *scripts])
    assert all(os.access(script, os.X_OK) for script in scripts)


def test_inputs_reach_scripts_by_the_environment() -> None:
    """REP-ACT-1, REP-ACT-4: nothing that a workflow's author passes on becomes part of a script."""
    document = action()
    steps = document["runs"]["steps"]
    assert [each["id"] for each in steps] == [*SCRIPTS, "upload"]
    for each in steps:
        if "uses" in each:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", each["uses"])
        else:
            assert each["shell"] == "bash"
            assert each["run"] == f'"$GITHUB_ACTION_PATH/tools/action/{each["id"]}.sh"'
    text = ACTION.read_text().split("\nruns:")[1]
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(document["inputs"])
    sources = "".join(path.read_text() for path in (ROOT / "tools" / "action").iterdir())
    given = {name for each in steps for name in each.get("env", {})}
    assert set(re.findall(r"\bVMPACK\w*", sources)) - {"VMPACK_INPUT_"} == given


# What it does


@dataclass
class Runner:
    """One job: evaluates a step's expressions, runs its shell, reads what it wrote."""

    folder: Path
    inputs: dict[str, str]
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    summary: str = ""
    path: list[str] = field(default_factory=list)

    def evaluate(self, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            names = match[1].split(".")
            if names[0] == "inputs":
                default = str(action()["inputs"][names[1]].get("default", ""))
                return self.inputs.get(names[1], default)
            if names[0] == "steps":
                assert names[2] == "outputs"
                return self.outputs.get(names[1], {}).get(names[3], "")
            assert match[1] == "github.action_path"
            return str(ROOT)

        return EXPRESSION.sub(value, text)

    def run(self, name: str, **more: str) -> subprocess.CompletedProcess[str]:
        """The step ``name``, as ``shell: bash`` has it."""
        has = step(name)
        files = {key: self.folder / key for key in ("GITHUB_OUTPUT", "GITHUB_PATH", "summary")}
        for path in files.values():
            path.write_text("")
        script = self.folder / "step.sh"
        script.write_text(has["run"])
        temporary = self.folder / "temporary"
        temporary.mkdir(exist_ok=True)
        environ = {
            "PATH": os.pathsep.join([*self.path, os.environ["PATH"]]),
            "HOME": str(self.folder),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(files["GITHUB_OUTPUT"]),
            "GITHUB_PATH": str(files["GITHUB_PATH"]),
            "GITHUB_STEP_SUMMARY": str(files["summary"]),
            "RUNNER_TEMP": str(temporary),
            **{key: self.evaluate(str(value)) for key, value in has.get("env", {}).items()},
            **more,
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            env=environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        self.outputs[name] = read_outputs(files["GITHUB_OUTPUT"].read_text())
        self.path = [*files["GITHUB_PATH"].read_text().splitlines(), *self.path]
        self.summary = files["summary"].read_text()
        return done


def read_outputs(text: str) -> dict[str, str]:
    """NAME=VALUE, or NAME<<END, lines, END; the last one counts."""
    found: dict[str, str] = {}
    lines = text.splitlines()
    while lines:
        line = lines.pop(0)
        if match := re.fullmatch(r"([\w-]+)<<(.*)", line):
            at = lines.index(match[2])
            found[match[1]], lines = "\n".join(lines[:at]), lines[at + 1 :]
        else:
            name, value = line.split("=", 1)
            found[name] = value
    return found


def dependencies(folder: Path) -> Path:
    """What this interpreter has but vmpack: in the place of a download."""
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if "vmpack" not in each.name and each.suffix != ".pth":
            (folder / each.name).symlink_to(each)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """vmpack as the step installs it: built from the action's files, in its own environment."""
    if find_tool("swtpm") is None or not Path("/usr/share/OVMF/OVMF_CODE_4M.fd").exists():
        missing("what the action installs by apt", "run `make setup`")
    folder = tmp_path_factory.mktemp("install")
    has = folder / "dependencies"
    has.mkdir()
    job = Runner(folder, {})
    # Its dependencies are there already: no network.
    words = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}
    done = job.run("install", PYTHONPATH=str(dependencies(has)), **words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().startswith("vmpack ")
    where = folder / "temporary"
    assert job.path == [str(where / "vmpack-bin")]
    assert os.listdir(where / "vmpack-bin") == ["vmpack"]
    (package,) = where.glob("vmpack-venv/lib/*/site-packages/vmpack/verify/report")
    assert {"page.css", "page.html.j2"} <= set(os.listdir(package)), "package data of the page"
    return {**job.outputs["install"], "PYTHONPATH": str(has)}


def verify(
    job: Runner, installed: dict[str, str]
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    job.outputs["install"] = {"vmpack": installed["vmpack"]}
    done = job.run("verify", PYTHONPATH=installed["PYTHONPATH"])
    return done, job.outputs["verify"]


@pytest.mark.qemu
def test_a_bundle_is_verified(tmp_path: Path, installed: dict[str, str]) -> None:
    """REP-ACT-1, REP-ACT-3, REP-GH-1, REP-GH-3, REP-GH-4, REP-GH-5."""
    bundle = sector_bundle(tmp_path, "poweroff", EXPECTED)
    odd = bundle.rename(tmp_path / "a $(touch oops) b; touch oops.vmpack")
    inputs = {
        "accel": "tcg",
        "junit": "out/junit.xml",
        "arguments": "--verbose\n\n--output\nhuman\n",
    }
    job = Runner(tmp_path, {"bundle": str(odd), **inputs})
    done, told = verify(job, installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert told == {
        "verdict": "expected",
        "exit-code": "0",
        "report": "vmpack-report/index.html",
        "junit": "out/junit.xml",
    }
    assert not (tmp_path / "oops").exists()
    document = json.loads((tmp_path / "vmpack-report" / "report.json").read_text())
    assert document["kind"] == "expected"
    assert (tmp_path / "out" / "junit.xml").read_bytes().startswith(b"<?xml")
    lines = done.stdout.splitlines()
    token = lines[0].removeprefix("::stop-commands::")
    assert lines.index(f"::{token}::") == len(lines) - 2
    assert lines[-1].startswith("::notice title=vmpack verify")
    assert job.summary.startswith("<h2>")
    # The upload takes what the step wrote, under the same input.
    upload = step("upload")
    assert Path(tmp_path, job.evaluate(upload["with"]["path"])).is_dir()
    assert upload["if"].startswith("always()")
    for name, output in action()["outputs"].items():
        if name != "artifact-url":
            assert job.evaluate(output["value"]) == told[name]


@pytest.mark.qemu
def test_what_is_wrong_fails_the_step(tmp_path: Path, installed: dict[str, str]) -> None:
    """REP-ACT-3: with vmpack's own exit code, also where there is no verdict."""
    bundle = sector_bundle(tmp_path, "panic", EXPECTED)
    job = Runner(tmp_path, {"bundle": str(bundle), "accel": "tcg"})
    done, told = verify(job, installed)
    assert (done.returncode, told["verdict"], told["exit-code"]) == (255, "panic", "255")
    assert "::error title=vmpack verify%3A here%3A panic::the guest panicked" in done.stdout
    assert (tmp_path / "vmpack-report" / "index.html").exists()
    (tmp_path / "bad.vmpack").write_bytes(b"no bundle")
    job.inputs["bundle"] = str(tmp_path / "bad.vmpack")
    done, told = verify(job, installed)
    assert (done.returncode, told) == (int(told["exit-code"]), {"exit-code": told["exit-code"]})
    assert done.returncode in (4, 5)
    job.inputs["bundle"] = ""
    done, told = verify(job, installed)
    assert (done.returncode, told) == (2, {})
    assert "::error title=vmpack::the input bundle is missing" in done.stdout


# /dev/kvm

CLOSED = """
set -eu
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /etc/udev/rules.d
mount -t tmpfs -o mode=755 tmpfs /etc/sudoers.d
echo "nobody ALL=(ALL) NOPASSWD: $ALLOWED" >/etc/sudoers.d/vmpack
chmod 440 /etc/sudoers.d/vmpack
# Where nobody may read the checkout, it is read from here.
install -m 755 "$SCRIPT" /run/kvm.sh
mkdir /run/dev
mount -t tmpfs -o mode=755 tmpfs /run/dev
mknod -m 666 /run/dev/null c 1 3
mknod -m 666 /run/dev/urandom c 1 9
[ -z "$KVM" ] || mknod -m "$KVM" /run/dev/kvm c 10 232
mount --move /run/dev /dev
[ -z "$UDEV" ] || /lib/systemd/systemd-udevd --daemon
setpriv --reuid=65534 --regid=65534 --clear-groups /run/kvm.sh
[ -z "$KVM" ] || stat -c 'kvm %a %G' /dev/kvm
cat /etc/udev/rules.d/* 2>/dev/null || true
"""
"""A machine of its own as far as /dev, /run and rules go: what changes there is gone after it."""

ALL = "ALL"
NO_CHMOD = "/usr/bin/tee, /usr/bin/udevadm, /bin/udevadm"


def closed(*, kvm: str, allowed: str, udev: bool) -> str:
    """What the step says to a user who is not root, and what /dev/kvm is after it."""
    if os.geteuid() != 0:
        missing("root", "the udev rule is tried in a namespace that only root can make")
    for tool in ("unshare", "setpriv", "sudo", "udevadm"):
        require_tool(tool)
    script = ROOT / "tools" / "action" / "kvm.sh"
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    environ = {"KVM": kvm, "ALLOWED": allowed, "UDEV": "1" if udev else "", "SCRIPT": str(script)}
    done = run([*words, "bash", "-c", CLOSED], env=environ)
    return done.stdout.decode()


def test_a_udev_rule_opens_kvm() -> None:
    """REP-ACT-2: the rule does it, udev being there; without udev the node itself is opened."""
    node = Path("/sys/class/misc/kvm").exists()
    if node:
        said = closed(kvm="600", allowed=NO_CHMOD, udev=True)
        assert said == f"/dev/kvm is usable now\nkvm 666 kvm\n{RULE}"
    said = closed(kvm="600", allowed=ALL, udev=False)
    assert said == f"/dev/kvm is usable now\nkvm 666 root\n{RULE}"


def test_kvm_that_stays_closed_or_is_not_there_stops_nothing() -> None:
    """REP-ACT-2."""
    said = closed(kvm="600", allowed="/bin/false", udev=False)
    assert said.startswith("::warning title=vmpack::/dev/kvm stays closed to nobody")
    assert said.endswith("kvm 600 root\n")
    said = closed(kvm="", allowed=ALL, udev=False)
    assert said.startswith("::notice title=vmpack::This runner has no /dev/kvm")
    assert closed(kvm="666", allowed=ALL, udev=False) == ("/dev/kvm is usable\nkvm 666 root\n")
