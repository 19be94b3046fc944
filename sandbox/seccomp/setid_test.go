package seccomp

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
)

// TestNoSetID: every call that takes a mode, on both machines and before
// filters of every kind, with the bits and without them.
func TestNoSetID(t *testing.T) {
	const (
		create = unix.O_CREAT | unix.O_WRONLY | unix.O_EXCL
		tmp    = 0o20000000 | unix.O_DIRECTORY | unix.O_WRONLY // O_TMPFILE
		high   = 1 << 32
		at     = 0xffffff9c // AT_FDCWD, as an int
	)
	cases := []struct {
		call string
		args []uint64
		want verdict
	}{
		{"chmod", []uint64{0x1000, 0o755}, allow}, {"chmod", []uint64{0x1000, 0o1777}, allow},
		{"chmod", []uint64{0x1000, 0o4755}, perm}, {"chmod", []uint64{0x1000, 0o2755}, perm}, {"chmod", []uint64{0x1000, 0o6000}, perm},
		{"chmod", []uint64{0x1000, 0o100755}, allow}, {"chmod", []uint64{0x1000, 0o104755}, perm}, // as stat shows it
		{"chmod", []uint64{0x1000, high | 0o4755}, perm}, {"chmod", []uint64{0x1000, high<<1 | 0o755}, allow}, {"chmod", []uint64{0o4755, 0o755}, allow},
		{"fchmod", []uint64{3, 0o644}, allow}, {"fchmod", []uint64{3, 0o4644}, perm}, {"fchmod", []uint64{0o4644, 0o644}, allow},
		{"fchmodat", []uint64{at, 0x1000, 0o711}, allow}, {"fchmodat", []uint64{at, 0x1000, 0o2711}, perm},
		{"fchmodat2", []uint64{at, 0x1000, 0o711, unix.AT_SYMLINK_NOFOLLOW}, allow}, {"fchmodat2", []uint64{3, 0x1000, 0o4711, unix.AT_EMPTY_PATH}, perm},
		{"creat", []uint64{0x1000, 0o666}, allow}, {"creat", []uint64{0x1000, 0o4777}, perm},
		{"open", []uint64{0x1000, create, 0o600}, allow}, {"open", []uint64{0x1000, create, 0o4755}, perm}, {"open", []uint64{0x1000, create, high | 0o2755}, perm},
		{"open", []uint64{0x1000, unix.O_RDONLY, 0xffff}, allow}, // what stands there is no mode
		{"open", []uint64{0x1000, tmp, 0o600}, allow}, {"open", []uint64{0x1000, tmp, 0o4755}, perm},
		{"openat", []uint64{at, 0x1000, create, 0o644}, allow}, {"openat", []uint64{at, 0x1000, create, 0o4755}, perm},
		{"openat", []uint64{at, 0x1000, high | create, 0o4755}, perm}, {"openat", []uint64{at, 0x1000, unix.O_CREAT, 0o2000}, perm},
		{"openat", []uint64{at, 0x1000, tmp, 0o6755}, perm}, {"openat", []uint64{at, 0x1000, unix.O_PATH | unix.O_DIRECTORY, 0o4755}, allow},
		{"mkdir", []uint64{0x1000, 0o755}, allow}, {"mkdir", []uint64{0x1000, 0o2755}, perm},
		{"mkdirat", []uint64{at, 0x1000, 0o1777}, allow}, {"mkdirat", []uint64{at, 0x1000, 0o4755}, perm},
		{"mknod", []uint64{0x1000, unix.S_IFIFO | 0o600}, allow}, {"mknod", []uint64{0x1000, unix.S_IFREG | 0o4755}, perm},
		{"mknodat", []uint64{at, 0x1000, unix.S_IFSOCK | 0o666}, allow}, {"mknodat", []uint64{at, 0x1000, unix.S_IFREG | 0o2755}, perm},
		{"socket", []uint64{unix.AF_UNIX, unix.SOCK_STREAM, 0}, noFamily}, {"socket", []uint64{high | unix.AF_UNIX, unix.SOCK_DGRAM, 0}, noFamily},
		{"socket", []uint64{unix.AF_INET, unix.SOCK_STREAM, 0}, allow}, {"socket", []uint64{unix.AF_INET6, unix.SOCK_STREAM, 0}, allow},
		{"openat2", nil, nosys},
		{"io_uring_setup", nil, perm}, {"io_uring_enter", nil, perm}, {"io_uring_register", nil, perm},
		{"setxattr", nil, noSupport}, {"lsetxattr", nil, noSupport}, {"fsetxattr", nil, noSupport}, {"setxattrat", nil, noSupport}, {"getxattr", nil, allow}, {"removexattr", nil, allow},
	}
	rules, _, err := Profile{}.rules()
	if err != nil {
		t.Fatal(err)
	}
	for goarch, audit := range map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64} {
		m, err := machineOf(goarch)
		if err != nil {
			t.Fatal(err)
		}
		vassals, err := compile(m, rules, perm)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := compile(m, nil, allow)
		if err != nil {
			t.Fatal(err)
		}
		for name, filter := range map[string][]stage.Filter{"off": nil, "default": vassals, "everything allowed": kept} {
			prog, err := m.noSetID(filter)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s, %s: %d instructions more", goarch, name, len(prog)-len(filter))
			vm := machineVM(t, prog)
			for _, c := range cases {
				nr, ok := m.numbers[c.call]
				if !ok {
					if goarch == "amd64" {
						t.Errorf("%s is not in the table", c.call)
					}
					continue // arm64 has only those with a descriptor
				}
				if got := ask(t, vm, data(audit, nr, c.args...)); got != c.want {
					t.Errorf("%s, %s: %s%#x: %#x, want %#x", goarch, name, c.call, c.args, got, c.want)
				}
				if got := ask(t, vm, data(unix.AUDIT_ARCH_I386, nr, c.args...)); got != kill {
					t.Errorf("%s, %s: %s of i386: %#x, want kill", goarch, name, c.call, got)
				}
				if got := ask(t, vm, data(audit, nr|x32Bit, c.args...)); m.x32 && got != kill || got == allow {
					t.Errorf("%s, %s: %s of x32: %#x, want kill", goarch, name, c.call, got)
				}
			}
			for _, nr := range []uint32{m.last() + 1, 999, ^uint32(0)} {
				if got := ask(t, vm, data(audit, nr, 0o4755, 0o4755, 0o4755)); got != nosys {
					t.Errorf("%s, %s: unknown call %d: %#x, want ENOSYS", goarch, name, nr, got)
				}
			}
		}
	}
}

// The rest is left to the filter behind it, whatever that says of a call: the
// answers to all calls without a mode are those of the filter alone.
func TestNoSetIDKeeps(t *testing.T) {
	m, err := machineOf("amd64")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []Profile{{}, {Strict: true}} {
		rules, other, err := p.rules()
		if err != nil {
			t.Fatal(err)
		}
		filter, err := compile(m, rules, other)
		if err != nil {
			t.Fatal(err)
		}
		prog, err := m.noSetID(filter)
		if err != nil {
			t.Fatal(err)
		}
		alone, both := machineVM(t, filter), machineVM(t, prog)
		for name, nr := range m.numbers {
			if name == "openat2" {
				continue
			}
			for _, arg := range interesting(rules[name]) {
				arg &^= setID
				if name == "socket" && uint32(arg) == unix.AF_UNIX || strings.Contains(name, "setxattr") {
					continue
				}
				packet := data(unix.AUDIT_ARCH_X86_64, nr, arg, arg, arg, arg)
				if got, want := ask(t, both, packet), ask(t, alone, packet); got != want {
					t.Errorf("%+v: %s(%#x): %#x, want %#x", p, name, arg, got, want)
				}
			}
		}
	}
	if _, err := m.noSetID(make([]stage.Filter, maxProgram)); err == nil {
		t.Error("a program too long for the kernel: got nil, want an error")
	}
}
