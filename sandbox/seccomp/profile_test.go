package seccomp

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
)

// answers compiles p, for this machine, and returns what becomes of a call.
func answers(t *testing.T, p Profile) func(call string, args ...uint64) verdict {
	t.Helper()
	rules, other, err := p.rules()
	if err != nil {
		t.Fatal(err)
	}
	m, err := machineOf("amd64")
	if err != nil {
		t.Fatal(err)
	}
	prog, err := compile(m, rules, other)
	if err != nil {
		t.Fatal(err)
	}
	vm := machineVM(t, prog)
	return func(call string, args ...uint64) verdict {
		nr, ok := m.numbers[call]
		if !ok {
			t.Fatalf("no call %s", call)
		}
		return ask(t, vm, data(unix.AUDIT_ARCH_X86_64, nr, args...))
	}
}

func TestProfiles(t *testing.T) {
	usual, strict, dumps := answers(t, Profile{}), answers(t, Profile{Strict: true}), answers(t, Profile{Dumps: true})
	raw, bind := answers(t, Profile{Caps: []int{unix.CAP_NET_RAW}}), answers(t, Profile{Caps: []int{unix.CAP_SYS_CHROOT}})
	const high = 1 << 32
	for _, c := range []struct {
		what string
		got  verdict
		want verdict
	}{
		{"the usual personality", usual("personality", 0), allow},
		{"asking for it", usual("personality", 0xffffffff), allow},
		{"no random addresses", usual("personality", 0x0040000), perm},
		{"the same, with bits above the int", usual("personality", high|0x0040000), perm},
		{"vmsplice", usual("vmsplice"), perm},
		{"kernel AIO", usual("io_setup", 1, 8), nosys},
		{"memory", usual("mmap", 0, 4096, 3, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS), allow},
		{"huge pages", usual("mmap", 0, 4096, 3, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB), nomem},
		{"huge pages of a size", strict("mmap", 0, 4096, 3, unix.MAP_HUGETLB|unix.MAP_HUGE_1GB), nomem},
		{"a file in memory", usual("memfd_create", 8, unix.MFD_CLOEXEC), allow},
		{"one of huge pages", usual("memfd_create", 8, unix.MFD_CLOEXEC|unix.MFD_HUGETLB), nomem},
		{"shared memory", usual("shmget", 1, 4096, 0o1600), allow},
		{"shared memory of huge pages", usual("shmget", 1, 4096, 0o5600), nomem},
		{"kernel AIO, strict", strict("io_setup", 1, 8), nosys},
		{"core dumps, setrlimit", usual("setrlimit", unix.RLIMIT_CORE), done},
		{"core dumps, with bits above the int", usual("setrlimit", high|unix.RLIMIT_CORE), done},
		{"another limit", usual("setrlimit", unix.RLIMIT_NOFILE), allow},
		{"core dumps, prlimit", usual("prlimit64", 0, unix.RLIMIT_CORE, 0x7fff00000000), done},
		{"core dumps, prlimit, a low address", usual("prlimit64", 0, unix.RLIMIT_CORE, 8), done},
		{"asking for the limit", usual("prlimit64", 0, unix.RLIMIT_CORE, 0, 8), allow},
		{"another limit, prlimit", usual("prlimit64", 0, unix.RLIMIT_NOFILE, 8), allow},
		{"core dumps where they are wanted", dumps("setrlimit", unix.RLIMIT_CORE), allow},
		{"ptrace", usual("ptrace"), allow},
		{"ptrace, strict", strict("ptrace"), perm},
		{"process_vm_writev, strict", strict("process_vm_writev"), perm},
		{"execve, strict", strict("execve"), allow},
		{"execveat, strict", strict("execveat"), allow},
		{"TIOCSTI", usual("ioctl", 0, unix.TIOCSTI), allow},
		{"TIOCSTI, strict", strict("ioctl", 0, unix.TIOCSTI), perm},
		{"TIOCSTI, strict, with bits above the int", strict("ioctl", 0, high|unix.TIOCSTI), perm},
		{"TIOCGWINSZ, strict", strict("ioctl", 0, unix.TIOCGWINSZ), allow},
		{"a file's project", usual("ioctl", 3, 0x401c5820), perm},
		{"the range of ports", usual("setsockopt", 3, unix.IPPROTO_IP, ipLocalPortRange), perm},
		{"the range of ports, with bits above the int", usual("setsockopt", 3, high, high|ipLocalPortRange), perm},
		{"the range of ports, strict", strict("setsockopt", 3, unix.IPPROTO_IP, ipLocalPortRange), perm},
		{"the same number of another level", usual("setsockopt", 3, unix.IPPROTO_IPV6, ipLocalPortRange), allow},
		{"another option", usual("setsockopt", 3, unix.IPPROTO_IP, unix.IP_TOS), allow},
		{"a file's project, with bits above the int", usual("ioctl", 3, high|0x401c5820), perm},
		{"a file's project, negative", usual("ioctl", 3, 0xffffffff<<32|0x401c5820), perm},
		{"a file's project, strict", strict("ioctl", 3, 0x401c5820), perm},
		{"a file's flags", usual("ioctl", 3, unix.FS_IOC_SETFLAGS), perm},
		{"a file's flags, as 32-bit programs say it", usual("ioctl", 3, 0x40046602), perm},
		{"asking for them", usual("ioctl", 3, unix.FS_IOC_GETFLAGS), allow},
		{"a raw socket", usual("socket", unix.AF_INET, unix.SOCK_RAW, 1), perm},
		{"a raw socket with the capability", raw("socket", unix.AF_INET, unix.SOCK_RAW, 1), allow},
		{"a packet socket with it", raw("socket", unix.AF_PACKET, unix.SOCK_RAW, 1), perm},
		{"chroot", usual("chroot"), perm},
		{"chroot with the capability", bind("chroot"), allow},
	} {
		if c.got != c.want {
			t.Errorf("%s: %#x, want %#x", c.what, c.got, c.want)
		}
	}
}

// An operator's profile, with every comparison.
func TestText(t *testing.T) {
	const text = `{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[
	{"names":["execve","execveat","read"],"action":"SCMP_ACT_ALLOW"},
	{"names":["kill"],"action":"SCMP_ACT_KILL_PROCESS"},
	{"names":["dup"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":4294967298,"op":"SCMP_CMP_NE"}]},
	{"names":["dup2"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":4294967298,"op":"SCMP_CMP_GT"}]},
	{"names":["dup3"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":4294967298,"op":"SCMP_CMP_GE"}]},
	{"names":["lseek"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":4294967298,"op":"SCMP_CMP_LT"}]},
	{"names":["fsync"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":4294967298,"op":"SCMP_CMP_LE"}]},
	{"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}}]}`
	call := answers(t, Profile{Text: []byte(text)})
	const pivot = 4294967298
	for name, want := range map[string]func(n uint64) bool{
		"dup": func(n uint64) bool { return n != pivot }, "dup2": func(n uint64) bool { return n > pivot }, "dup3": func(n uint64) bool { return n >= pivot },
		"lseek": func(n uint64) bool { return n < pivot }, "fsync": func(n uint64) bool { return n <= pivot },
	} {
		for _, n := range []uint64{0, 2, pivot - 1, pivot, pivot + 1, 1<<33 + 1, 1 << 63} {
			if got := call(name, n) == allow; got != want(n) {
				t.Errorf("%s(%d): allowed %v, want %v", name, n, got, want(n))
			}
		}
	}
	for name, want := range map[string]verdict{"read": allow, "kill": kill, "write": nosys, "mount": nosys} {
		if got := call(name); got != want {
			t.Errorf("%s: %#x, want %#x", name, got, want)
		}
	}
	for text, want := range map[string]string{
		"": "seccomp", "{}": "neither", "[1]": "seccomp", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[]}`: "execve",
		`{"defaultAction":"SCMP_ACT_NOTIFY","syscalls":[]}`: "SCMP_ACT_NOTIFY",
	} {
		if _, err := Compile(Profile{Text: []byte(text)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q in it", text, err, want)
		}
	}
	if _, err := Compile(Profile{Caps: []int{unix.CAP_SYS_ADMIN}}); err == nil {
		t.Error("a capability that gives the host away: got nil, want an error")
	}
}

// FuzzText: no profile, however odd, breaks the compiler.
func FuzzText(f *testing.F) {
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":1,"args":[{"index":1,"value":2,"valueTwo":3,"op":"SCMP_CMP_MASKED_EQ"}]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if text == nil {
			return
		}
		prog, err := Compile(Profile{Text: text})
		if err == nil && (len(prog) == 0 || prog[len(prog)-1] == (stage.Filter{})) {
			t.Error("an empty program")
		}
	})
}
