"""A real three-node Slurm on this machine, in one temporary folder, for the tests.

Needs Debian's slurm-wlm and munge (and slurmdbd and mariadb-server for accounting). All daemons run
in the foreground as children of the tests, on ports that were free, and are stopped by ``stop``.
"""

import contextlib
import ctypes
import getpass
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SBIN = "/usr/sbin:/sbin"
USER = getpass.getuser()
CGROUPS = Path("/sys/fs/cgroup")
# No demand on speed: two cores that are busy with other work take minutes for a training.
PATIENCE = float(os.environ.get("L3HPC_TEST_PATIENCE", 1))  # more in a virtual machine
LIMIT_S = 480 * PATIENCE
# A requeued job waits for so long, so these are short; sites have two minutes. A task that a slow
# machine starts later is refused.
CREDENTIALS_S = 5 if PATIENCE == 1 else 30
# otherwise MariaDB 11 reserves 8 TB of addresses, which user-mode Linux does not have
_SMALL = "--loose-innodb-buffer-pool-size-max=64M"
NEEDED = ("sbatch", "squeue", "scancel", "slurmctld", "slurmd", "munged")
FOR_ACCOUNTING = ("slurmdbd", "sacctmgr", "sacct", "mariadbd", "mariadb-install-db")


def missing(accounting):
    """Programs that are not installed here."""
    names = NEEDED + (FOR_ACCOUNTING if accounting else ())
    return [name for name in names if not _which(name)]


def memory_cgroups():
    """Slurm's plugin for the control groups of this machine that limit memory, and why there is
    none ('' for the one or the other)."""
    unified = CGROUPS / "cgroup.controllers"
    if unified.exists():
        name, marker = "cgroup/v2", CGROUPS
        if "memory" not in unified.read_text().split():
            return "", "the control groups of this machine do not limit memory"
    else:
        name, marker = "cgroup/v1", CGROUPS / "memory"
    if not os.access(marker / "cgroup.procs", os.W_OK):
        return "", f"no control groups can be made in {marker}"
    return name, ""


class RealSlurm:
    """The cluster. ``env``: variables for its clients. ``partitions``: ``cpu`` (default), ``low``
    (preempted by ``cpu``). Three nodes, if not stated otherwise, each of 4 cores, 64 GB (so they
    say) and two make-believe GPUs."""

    partitions = ("cpu", "low")

    def __init__(self, accounting=True, place=None, cgroups="", nodes=3, cores=4, **settings):
        """place: folder for all that the daemons keep (default: a temporary one).
        nodes, cores: number of nodes, and of cores that each claims to have.
        cgroups: limit memory by control groups with this plugin (see ``memory_cgroups``); they are
        named after the nodes, and all clusters of a machine have them in common."""
        self.accounting = accounting
        self.settings, self.cores = settings, cores
        self.cgroups = cgroups
        prefix = f"n{secrets.token_hex(3)}-" if cgroups else "n"
        self.nodes = tuple(f"{prefix}{number}" for number in range(1, nodes + 1))
        self.folder = Path(tempfile.mkdtemp(prefix="l3slurm-", dir=place))
        self.folder.chmod(0o755)
        self.conf = self.folder / "slurm.conf"
        self.env = {"SLURM_CONF": str(self.conf)}
        self.processes = {}
        ports, self._claims = free_ports(4 + len(self.nodes))
        self.ports = dict(zip(("ctld", "dbd", "db", *self.nodes), ports, strict=False))

    @property
    def profile(self):
        """Settings of the cluster's entry in cluster.yaml."""
        return {"executor": "slurm", "partition": "cpu", "gpu_request": "gres",
                "python": sys.executable, "report": False}

    def start(self):
        """Start everything and wait until jobs can run."""
        try:
            self._munge()
            if self.accounting:
                self._database()
            self._write_conf()
            if self.accounting:
                self._slurmdbd()
            self.start_controller()
            for node in self.nodes:
                self.start_node(node)
            self.idle()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        """Stop all daemons and remove the folder."""
        with contextlib.suppress(Exception):
            self.command("scancel", "--user", USER, timeout=5)
            time.sleep(0.5)
        for name in reversed(list(self.processes)):
            self.stop_daemon(name)
        if self.cgroups:
            for node in self.nodes:
                for group in CGROUPS.glob(f"*/*{node}*"):
                    _remove_cgroup(group)
        for claim in self._claims:
            claim.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, *words, timeout=120, check=True):
        """Run one of Slurm's commands and return its standard output."""
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout,
                              env={**os.environ, **self.env})
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr}{done.stdout}")
        return done.stdout

    def jobs(self):
        """Names of the jobs that wait or run."""
        return self.command("squeue", "-h", "-o", "%j").split()

    def ids(self):
        """Ids of the jobs that wait or run; an array has one."""
        return {*self.command("squeue", "-h", "-o", "%A").split()}

    def drain(self):
        """Cancel everything and wait until the queue is empty."""
        def empty():
            ids = self.ids()
            if ids:  # again: a job that asked to be requeued as it was cancelled comes back later
                self.command("scancel", *sorted(ids), check=False)
            return not ids

        self.until(empty, "the queue does not get empty")

    def start_controller(self):
        self._daemon("slurmctld", "-D")
        self.until(lambda: "UP" in self.command("scontrol", "ping", check=False),
                   "slurmctld does not answer")

    def forget_everything(self, first_job):
        """The controller is set up anew: no state, and numbers that begin at ``first_job``."""
        self.stop_daemon("slurmctld", kill=True)  # it would save its state
        shutil.rmtree(self.folder / "state")
        (self.folder / "state").mkdir()
        before = self.conf.read_text()
        self.conf.write_text(f"FirstJobId={first_job}\n{before}")
        self.start_controller()
        self.conf.write_text(before)
        self.idle()

    def start_node(self, node):
        self._daemon("slurmd", "-D", "-N", node, name=node)

    def kill_node(self, node):
        """A node dies: its slurmd and everything that runs on it, without a word."""
        self.stop_daemon(node, kill=True)
        self.kill_processes(f"SLURMD_NODENAME={node}", above=True)

    def kill_processes(self, variable, above=False):
        """SIGKILL to every process of this cluster that has NAME=VALUE in its environment. above:
        also to the slurmstepd that would tell of it."""
        doomed, mark = set(), f"SLURM_CONF={self.conf}\0"
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                variables = (process / "environ").read_bytes().decode(errors="replace") + "\0"
                if f"{variable}\0" in variables and mark in variables:
                    doomed.add(int(process.name))
                    parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                    name = (Path("/proc") / parent / "comm").read_text()
                    if above and name.startswith("slurmstepd"):
                        doomed.add(int(parent))
        for number in (signal.SIGSTOP, signal.SIGKILL):  # all at once: none sees another one die
            for process in doomed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)

    @contextlib.contextmanager
    def draining(self):
        """No job starts: one that is requeued meanwhile is still in the queue however late the
        test looks."""
        nodes = f"NodeName={','.join(self.nodes)}"
        self.command("scontrol", "update", nodes, "State=DRAIN", "Reason=test")
        try:
            yield
        finally:
            self.command("scontrol", "update", nodes, "State=RESUME")

    @contextlib.contextmanager
    def configured(self, restart=False, **settings):
        """With other lines in slurm.conf. restart: the controller, which some of them need."""
        before = self.conf.read_text()
        kept = [line for line in before.splitlines() if line.partition("=")[0] not in settings]
        lines = [f"{key}={value}" for key, value in settings.items()]
        try:
            self._reconfigure("\n".join([*lines, *kept, ""]), restart)
            yield self
        finally:
            self._reconfigure(before, restart)

    def _reconfigure(self, text, restart):
        self.conf.write_text(text)
        if restart:
            self.stop_daemon("slurmctld")
            self.start_controller()
            self.idle()
        else:
            self.command("scontrol", "reconfigure")

    def idle(self):
        """Wait until all nodes can run jobs again."""
        self.until(lambda: all(self.node_state(node) == "IDLE" for node in self.nodes),
                   "nodes are not idle")

    def node_state(self, node):
        """``IDLE``, ``MIXED``, ``DOWN+NOT_RESPONDING`` …

        From scontrol: sinfo of Slurm 26.05, asked twice a second, still says ``mixed*`` minutes
        after the controller has set a node down.
        """
        return self.command("scontrol", "show", "node", node).partition("State=")[2].split()[0]

    def start_slurmdbd(self):
        self._daemon("slurmdbd", "-D")

    def stop_daemon(self, name, kill=False):
        """Stop one daemon: ``slurmctld``, ``slurmdbd``, ``mariadbd``, ``munged``, ``n1`` …"""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _munge(self):
        folder = self.folder / "munge"
        folder.mkdir(mode=0o755)
        key = folder / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        self.socket = folder / "socket"
        self._daemon("munged", "--foreground", "--force", f"--socket={self.socket}",
                     f"--key-file={key}", f"--pid-file={folder}/pid", f"--seed-file={folder}/seed",
                     f"--log-file={folder}/log", "--num-threads=4")
        self.until(self.socket.exists, "munged does not start")

    def _database(self):
        data, own_tmp = self.folder / "mysql", self.folder / "mysql-tmp"
        own_tmp.mkdir()
        # A server that starts removes every #sql* file of its tmpdir: in a shared one that breaks
        # whoever installs beside it.
        _checked([_which("mariadb-install-db"), "--no-defaults", f"--datadir={data}",
                  f"--tmpdir={own_tmp}", "--auth-root-authentication-method=normal",
                  "--skip-test-db", f"--user={USER}", "--innodb-log-file-size=8M", _SMALL])
        self._daemon("mariadbd", "--no-defaults", f"--datadir={data}", f"--user={USER}",
                     f"--tmpdir={own_tmp}",
                     f"--port={self.ports['db']}", "--bind-address=127.0.0.1",
                     f"--socket={self.folder}/mysql.sock", f"--pid-file={self.folder}/mysql.pid",
                     "--innodb-buffer-pool-size=32M", _SMALL, "--innodb-log-file-size=8M",
                     "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin")
        sql = ("create database slurm_acct; create user 'slurm'@'%' identified by 'test'; "
               "grant all on slurm_acct.* to 'slurm'@'%'; "
               "create user 'slurm'@'localhost' identified by 'test'; "
               "grant all on slurm_acct.* to 'slurm'@'localhost';")
        client = [_which("mariadb") or _which("mysql"), "--no-defaults",
                  f"--socket={self.folder}/mysql.sock", "--user=root", "-e"]
        self.until(lambda: subprocess.run([*client, "select 1"], capture_output=True)
                   .returncode == 0, "mariadbd does not start")
        _checked([*client, sql])

    def _slurmdbd(self):
        conf = self.folder / "slurmdbd.conf"
        conf.write_text("\n".join([
            f"DbdHost={socket.gethostname()}", f"DbdPort={self.ports['dbd']}", f"SlurmUser={USER}",
            "AuthType=auth/munge", f"AuthInfo=socket={self.socket}",
            f"LogFile={self.folder}/slurmdbd.log", f"PidFile={self.folder}/slurmdbd.pid",
            "StorageType=accounting_storage/mysql", "StorageHost=127.0.0.1",
            f"StoragePort={self.ports['db']}", "StorageUser=slurm", "StoragePass=test",
            "StorageLoc=slurm_acct", ""]))
        conf.chmod(0o600)
        self.start_slurmdbd()
        self.until(lambda: "l3test" in self.command("sacctmgr", "-n", "-i", "add", "cluster",
                                                    "l3test", check=False)
                   or "l3test" in self.command("sacctmgr", "-n", "list", "cluster", check=False),
                   "slurmdbd does not answer")
        self.command("sacctmgr", "-i", "add", "account", "lab", "Cluster=l3test")
        self.command("sacctmgr", "-i", "add", "user", USER, "Account=lab", check=False)

    def _write_conf(self):
        host = socket.gethostname()
        for name in ("state", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / name).mkdir()
        gpus = self._fake_gpus()
        lines = {
            "ClusterName": "l3test", "SlurmctldHost": f"{host}(127.0.0.1)", "SlurmUser": USER,
            "SlurmdUser": USER,
            "SlurmctldPort": self.ports["ctld"], "AuthType": "auth/munge",
            "AuthInfo": f"socket={self.socket},cred_expire={CREDENTIALS_S}",
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": f"{self.folder}/spool-%n",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": f"{self.folder}/slurmd-%n.pid",
            "SlurmctldLogFile": self.folder / "slurmctld.log",
            "SlurmdLogFile": f"{self.folder}/slurmd-%n.log",
            "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core_Memory",
            "JobAcctGatherType": "jobacct_gather/linux", "JobAcctGatherFrequency": "1",
            "JobAcctGatherParams": "OverMemoryKill", "ReturnToService": "2",
            "SlurmdParameters": "config_overrides",
            "SchedulerParameters": "sched_interval=1,bf_interval=1,batch_sched_delay=0",
            "PreemptType": "preempt/partition_prio", "PreemptMode": "REQUEUE",
            "KillWait": "2", "SlurmdTimeout": "300", "MinJobAge": "300", "MaxArraySize": "1001",
            "MpiDefault": "none", "JobRequeue": "1", "GresTypes": "gpu",
        }
        if self.accounting:
            lines |= {"AccountingStorageType": "accounting_storage/slurmdbd",
                      "AccountingStorageHost": host, "AccountingStoragePort": self.ports["dbd"],
                      "AccountingStoragePass": self.socket,
                      "AccountingStorageTRES": "gres/gpu"}
        else:
            lines["AccountingStorageType"] = "accounting_storage/none"
        if self.cgroups:
            lines |= {"TaskPlugin": "task/cgroup", "JobAcctGatherParams": "NoShared"}
            (self.folder / "cgroup.conf").write_text(
                f"CgroupPlugin={self.cgroups}\nConstrainRAMSpace=yes\nConstrainSwapSpace=yes\n"
                "AllowedSwapSpace=0\n"
                + ("IgnoreSystemd=yes\n" if self.cgroups == "cgroup/v2" else ""))
        elif (CGROUPS / "cgroup.controllers").exists() and not Path("/run/systemd/system").exists():
            # slurmd since 23.11 would ask systemd for a scope even where nothing is limited
            (self.folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        lines |= self.settings
        text = [f"{key}={value}" for key, value in lines.items()]
        for node in self.nodes:
            text.append(f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 "
                        f"Port={self.ports[node]} CPUs={self.cores} RealMemory=64000"
                        + (" Gres=gpu:2" if gpus else ""))
        everywhere = f"Nodes={','.join(self.nodes)} MaxTime=1-00:00:00 State=UP"
        text += [f"PartitionName=cpu {everywhere} Default=YES PriorityTier=10",
                 f"PartitionName=low {everywhere} PriorityTier=1", ""]
        self.conf.write_text("\n".join(text))
        gres = [f"NodeName={node} Name=gpu File={path}" for node in self.nodes for path in gpus]
        (self.folder / "gres.conf").write_text("\n".join([*gres, ""]))

    def _fake_gpus(self):
        """Two character devices (the null device under other names), where we may make them."""
        paths = [self.folder / f"gpu{number}" for number in range(2)]
        try:
            for path in paths:
                os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))
        except PermissionError:
            return []
        return paths

    def _daemon(self, program, *words, name=None):
        log = open(self.folder / f"{name or program}.out", "ab")  # noqa: SIM115
        # tools/slurm-vm: a node sees the workspaces as another machine does
        before = shlex.split(os.environ.get("L3HPC_NODE_PREFIX", "")) if program == "slurmd" else []
        self.processes[name or program] = subprocess.Popen(
            [*before, _which(program), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, **self.env}, preexec_fn=_die_with_parent)
        log.close()

    def until(self, condition, complaint, seconds=LIMIT_S):
        """Wait until ``condition()``; after so many seconds an error with the daemons' logs."""
        end, pause = time.monotonic() + seconds, 0.05
        while time.monotonic() < end:
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):  # a busy controller
                if condition():
                    return
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            if dead:
                break
            time.sleep(pause)
            pause = min(1.3 * pause, 0.5)
        else:
            dead = []
        logs = "\n".join(f"--- {path.name}\n" + path.read_text(errors="replace")[-1500:]
                         for path in sorted(self.folder.glob("*.out")) + sorted(
                             self.folder.glob("*.log")))
        raise RuntimeError(f"{complaint}; ended: {dead or 'none'}\n{logs}")


class Sibling(RealSlurm):
    """Another cluster of the same site: its own controller and nodes, the same munge and slurmdbd,
    so that ``--clusters=NAME`` reaches it from the first one."""

    def __init__(self, first, name, **settings):
        super().__init__(True, ClusterName=name, **settings)
        self.name, self.socket = name, first.socket
        self.ports["dbd"] = first.ports["dbd"]

    def _munge(self):
        """That of the first one."""

    def _database(self):
        """That of the first one."""

    def _slurmdbd(self):
        self.until(lambda: self.name in self.command("sacctmgr", "-n", "-i", "add", "cluster",
                                                     self.name, check=False),
                   "slurmdbd takes no second cluster")


def _remove_cgroup(group):
    """With all below it: a control group is removed as an empty folder is."""
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):  # something still ends in it
            os.rmdir(folder)


def _checked(command):
    """Run a command; where it fails, an error with what it wrote."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} exited with status {done.returncode}:\n"
                           f"{done.stdout}{done.stderr}")


def _which(name):
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}")


def free_ports(count):
    """Ports below those that the system gives away by itself, and the sockets that claim them. Many
    clusters start at once, and between a look at a port and the daemon that takes it are seconds:
    as long as its claim is open, no other cluster gets it."""
    ports, claims = [], []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 500):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0l3slurm-port-{port}")  # a name in the kernel: it ends with its process
            with socket.socket() as one:
                one.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        ports.append(port)
        claims.append(claim)
        if len(ports) == count:
            return ports, claims
    raise RuntimeError("no free ports between 20,000 and 32,000")


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
