"""What a process in a vassal has and may do, as lines that are the same on
every machine. Run as a program it makes the same attempts outside: the
negative control."""
import ctypes
import errno
import os
import socket
import stat
import sys

REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
libc = ctypes.CDLL(None, use_errno=True)


def numbers():
    return dict((name, int(n)) for name, n in (w.split("=") for w in os.environ["PROBE_CALLS"].split(",")))


def calls():
    """Every call by its number, with arguments that do no harm where it is allowed."""
    text = ctypes.c_char_p(b"")
    nowhere = ctypes.c_char_p(b"/no/such")
    bad = ctypes.c_void_p(1)
    for name, args in [
        ("unshare", (0x04000000,)), ("setns", (-1, 0)), ("mount", (0, 0, 0, 0, 0)), ("umount2", (text, 0)), ("pivot_root", (text, text)),
        ("move_mount", (-1, text, -1, text, 0)), ("open_tree", (-100, text, 1)), ("fsopen", (0, 0)), ("fsmount", (-1, 0, 0)), ("fspick", (-1, text, 0)), ("mount_setattr", (-1, text, 0, 0, 0)),
        ("chroot", (nowhere,)), ("bpf", (-1, 0, 0)), ("perf_event_open", (0, 0, -1, -1, 0)), ("io_uring_setup", (1, 0)), ("io_uring_enter", (-1, 0, 0, 0, 0, 0)), ("io_uring_register", (-1, 0, 0, 0)),
        ("keyctl", (0, -3, 0)), ("add_key", (0, 0, 0, 0, 0)), ("request_key", (0, 0, 0, 0)), ("userfaultfd", (0xffff,)),
        ("kexec_load", (0, 1 << 20, 0, 0)), ("kexec_file_load", (-1, -1, 0, 0, 0xffff)), ("init_module", (0, 0, 0)), ("finit_module", (-1, 0, 0)), ("delete_module", (0, 0)),
        ("personality", (0x0040000,)), ("vmsplice", (-1, 0, 0, 0)), ("open_by_handle_at", (-1, 0, 0)), ("quotactl", (0xff, 0, 0, 0)), ("swapon", (0, 0)), ("swapoff", (0,)), ("reboot", (0, 0, 0, 0)),
        ("acct", (nowhere,)), ("settimeofday", (bad, 0)), ("clock_settime", (99, 0)), ("sethostname", (0, -1)), ("setdomainname", (0, -1)), ("syslog", (10, 0, 0)), ("fanotify_init", (0xffffffff, 0)),
        ("setuid", (0,)), ("setgid", (0,)), ("setgroups", (0, 0)), ("iopl", (99,)), ("ioperm", (1 << 20, 1, 1)), ("lookup_dcookie", (0, 0, 0)), ("mount user namespace", None),
    ]:
        if args is None:
            name, args = "unshare", (0x10000000,)
        if name not in numbers():
            continue  # another architecture
        ctypes.set_errno(0)
        r = libc.syscall(ctypes.c_long(numbers()[name]), *args)
        yield "call " + name + (" user" if args == (0x10000000,) else ""), 0 if r >= 0 else ctypes.get_errno()


def attempts():
    """What is not a call by itself."""
    def opens(path, flags):
        return lambda: os.close(os.open(path, flags))

    def connects(family, address):
        def do():
            s = socket.socket(family)
            s.settimeout(30)
            s.connect(address)
        return do

    def makes(family, kind, protocol):
        return lambda: socket.socket(family, kind, protocol)
    abstract, host, control, shadow, neighbour = os.environ["PROBE_HOST"].split(",")
    address, port = host.split(":")
    other = "/proc/" + os.environ.get("PROBE_PID", "1")
    for name, do in [
        ("read /proc/kcore", opens("/proc/kcore", os.O_RDONLY)), ("read /proc/keys", lambda: open("/proc/keys").read(1) or missing()), ("read the environment of the first process", opens(other + "/environ", os.O_RDONLY)),
        ("follow its root", lambda: os.listdir(other + "/root")), ("write its memory", opens(other + "/mem", os.O_RDWR)),
        ("write core_pattern", opens("/proc/sys/kernel/core_pattern", os.O_WRONLY)), ("write sysrq-trigger", opens("/proc/sysrq-trigger", os.O_WRONLY)),
        ("read /sys/firmware", lambda: os.listdir("/sys/firmware")[0]), ("make a cgroup", lambda: makes_cgroup()),
        ("read a file of root's", opens(shadow, os.O_RDONLY)), ("read a neighbour's file", opens(neighbour, os.O_RDONLY)),
        ("connect to an abstract socket of the host", connects(socket.AF_UNIX, "\0" + abstract)), ("connect to a port of the host", connects(socket.AF_INET, (address, int(port)))),
        ("connect to the Emperor", connects(socket.AF_UNIX, control)),
        ("make a raw socket", makes(socket.AF_INET, socket.SOCK_RAW, 1)), ("make a packet socket", makes(socket.AF_PACKET, socket.SOCK_RAW, 0)), ("make an AF_ALG socket", makes(38, socket.SOCK_SEQPACKET, 0)),
        ("make a vsock", makes(40, socket.SOCK_STREAM, 0)), ("make an SCTP socket", makes(socket.AF_INET, socket.SOCK_STREAM, 132)),
        ("make a device", lambda: (os.mknod("/tmp/posture-null", 0o600 | stat.S_IFCHR, os.makedev(1, 3)), os.unlink("/tmp/posture-null"))),
        ("lower the nice value", lambda: os.setpriority(os.PRIO_PROCESS, 0, -1)),
    ]:
        try:
            do()
            yield name, 0
        except OSError as e:
            yield name, e.errno or errno.EINVAL
        except IndexError:
            yield name, errno.ENOENT


def missing():
    raise OSError(errno.ENOENT, "empty")


def makes_cgroup():
    tops = [d for d in ("/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified") if os.path.isdir(d)]
    for top in reversed(tops):
        try:
            os.mkdir(top + "/liege-posture")
            os.rmdir(top + "/liege-posture")
            return
        except OSError as e:
            last = e
    raise last


def status():
    for line in open("/proc/self/status"):
        k, v = line.split(":", 1)
        if k in ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp") or k.startswith("Cap"):
            yield "%s %s" % (k, " ".join(v.split()))


def limits():
    for line in open("/proc/self/limits"):
        for name in ("core file size", "locked memory", "nice priority", "realtime priority"):
            if line.startswith("Max " + name):
                yield "limit %s %s" % (name, " ".join(line[len("Max " + name):].split()[:2]))


def mounts():
    """The mounts, those of one kind together where their number depends on the host."""
    seen = {}
    for line in open("/proc/self/mountinfo"):
        head, tail = line.split(" - ")
        point, options = head.split()[4], set(head.split()[5].split(","))
        flags = " ".join(o for o in ("ro", "rw", "nosuid", "nodev", "noexec") if o in options or o == "ro" and "ro" in tail.split()[2].split(","))
        flags = flags.replace("ro rw", "ro")
        point = point.replace(os.environ["PROBE_TOP"], "DIR")
        for top in ("/etc", "/proc", "/sys", "/.liege"):
            if point.startswith(top + "/"):
                point = "below " + top
        seen.setdefault(point, set()).add(flags)
    for point in sorted(seen):
        # Masks of directories are file systems, those of files are binds of
        # /dev/null: how many there are depends on the kernel.
        yield "mount %s: %s" % (point, " | ".join(sorted(seen[point])))


def descriptors():
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            kind = os.fstat(fd).st_mode
        except OSError:
            continue  # that of the listing itself
        yield "fd %s" % {stat.S_IFSOCK: "socket", stat.S_IFIFO: "pipe", stat.S_IFCHR: "device", stat.S_IFREG: "file", stat.S_IFDIR: "directory"}.get(stat.S_IFMT(kind), "anonymous")


def writable():
    """Directories and files of the first two levels that can be written."""
    found = []
    for top in sorted(os.listdir("/")):
        paths = ["/" + top]
        if os.path.isdir("/" + top) and not os.path.islink("/" + top) and top not in ("proc",):
            try:
                paths += ["/%s/%s" % (top, n) for n in sorted(os.listdir("/" + top))]
            except OSError:
                pass
        found += [p for p in paths if not os.path.islink(p) and os.access(p, os.W_OK)]
    for p in found:
        if not p.startswith("/tmp/"):
            yield "writable " + p.replace(os.environ["PROBE_TOP"], "DIR")


def namespaces():
    for pair in sorted(os.environ["PROBE_NS"].split(",")):
        name, inode = pair.split("=")
        yield "namespace %s %s" % (name, "the host's" if os.readlink("/proc/self/ns/" + name) == inode else "its own")


def processes():
    names = set()
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            names.add(open("/proc/%s/comm" % pid).read().split("-")[0].split()[0])
    yield "processes " + " ".join(sorted(names))


def posture():
    for part in (status, limits, namespaces, processes, mounts, descriptors, writable):
        for line in part():
            yield line
    yield "devices " + " ".join(sorted(os.listdir("/dev")))
    for name, no in list(attempts()) + list(calls()):
        # Which of the refusals it is depends on the kernel and on who is first.
        yield "%s: %s" % (name, "allowed" if no == 0 else "refused" if no in REFUSED + (errno.ENOENT, errno.EROFS, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ENXIO, errno.EAFNOSUPPORT) else errno.errorcode[no])


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        text = "\n".join(posture()) + "\n"
    except Exception:
        import traceback
        text = traceback.format_exc()
    return [text.encode()]


if __name__ == "__main__":
    for name, no in list(attempts()) + list(calls()):
        absent = (errno.ENOSYS,) if name.startswith("call ") else (errno.ENOSYS, errno.ENOENT, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)
        print("%s: %s" % (name, "missing" if no in absent else "refused" if no in REFUSED else "gets through"))
