package seccomp

import (
	"encoding/binary"
	"runtime"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
)

// data is struct seccomp_data as a packet: the VM reads big endian, the kernel
// its own order, and each word keeps its place.
func data(arch, nr uint32, args ...uint64) []byte {
	b := binary.BigEndian.AppendUint32(nil, nr)
	b = binary.BigEndian.AppendUint32(b, arch)
	b = append(b, make([]byte, 8)...) // instruction pointer
	for i := range 6 {
		var a uint64
		if i < len(args) {
			a = args[i]
		}
		b = binary.BigEndian.AppendUint32(b, uint32(a))
		b = binary.BigEndian.AppendUint32(b, uint32(a>>32))
	}
	return b
}

func machineVM(t testing.TB, prog []stage.Filter) *bpf.VM {
	t.Helper()
	raw := make([]bpf.RawInstruction, len(prog))
	for i, f := range prog {
		raw[i] = bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	ins, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("an instruction that x/net/bpf does not know")
	}
	vm, err := bpf.NewVM(ins)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func ask(t testing.TB, vm *bpf.VM, packet []byte) verdict {
	t.Helper()
	n, err := vm.Run(packet)
	if err != nil {
		t.Fatal(err)
	}
	return verdict(uint32(n))
}

func TestVerdicts(t *testing.T) {
	const amd64, i386 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386
	rules, _, err := Profile{}.rules()
	if err != nil {
		t.Fatal(err)
	}
	m, err := machineOf("amd64")
	if err != nil {
		t.Fatal(err)
	}
	prog, err := compile(m, rules, perm)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d instructions", len(prog))
	vm := machineVM(t, prog)
	for _, c := range []struct {
		call string
		args []uint64
		want verdict
	}{
		{"read", nil, allow}, {"execve", nil, allow}, {"execveat", nil, allow}, {"openat2", nil, allow},
		{"futex", nil, allow}, {"epoll_pwait2", nil, allow}, {"close_range", nil, allow}, {"seccomp", nil, allow},
		{"rseq", nil, allow}, {"pidfd_open", nil, allow}, {"memfd_create", nil, allow}, {"statx", nil, allow},
		{"mount", nil, perm}, {"umount2", nil, perm}, {"pivot_root", nil, perm}, {"unshare", nil, perm},
		{"setns", nil, perm}, {"bpf", nil, perm}, {"reboot", nil, perm}, {"kexec_load", nil, perm},
		{"init_module", nil, perm}, {"open_by_handle_at", nil, perm}, {"move_mount", nil, perm}, {"fsopen", nil, perm},
		{"io_uring_setup", nil, perm}, {"userfaultfd", nil, perm}, {"keyctl", nil, perm}, {"add_key", nil, perm},
		{"perf_event_open", nil, perm}, {"chroot", nil, perm}, {"acct", nil, perm}, {"swapon", nil, perm},
		{"clone3", nil, nosys},
		{"clone", []uint64{unix.CLONE_VM | unix.CLONE_VFORK | uint64(unix.SIGCHLD)}, allow},
		{"clone", []uint64{unix.CLONE_THREAD | unix.CLONE_VM | unix.CLONE_FS}, allow},
		{"clone", []uint64{unix.CLONE_NEWUSER}, perm}, {"clone", []uint64{unix.CLONE_NEWNS | unix.CLONE_VM}, perm},
		{"clone", []uint64{unix.CLONE_NEWPID}, perm}, {"clone", []uint64{unix.CLONE_NEWNET}, perm},
		{"clone", []uint64{1<<40 | unix.CLONE_NEWUSER}, perm},
		{"socket", []uint64{unix.AF_UNIX}, allow}, {"socket", []uint64{unix.AF_INET6, unix.SOCK_STREAM | unix.SOCK_CLOEXEC}, allow},
		{"socket", []uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP}, allow},
		{"socket", []uint64{unix.AF_INET, unix.SOCK_DGRAM | unix.SOCK_NONBLOCK, unix.IPPROTO_UDP}, allow},
		{"socket", []uint64{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6}, allow},
		{"socket", []uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP}, perm},
		{"socket", []uint64{unix.AF_INET, unix.SOCK_DCCP}, perm}, {"socket", []uint64{unix.AF_INET, unix.SOCK_RAW}, perm},
		{"socket", []uint64{unix.AF_RDS, unix.SOCK_SEQPACKET}, perm}, {"socket", []uint64{unix.AF_TIPC, unix.SOCK_STREAM}, perm},
		{"socket", []uint64{unix.AF_PACKET, unix.SOCK_RAW}, perm}, {"socket", []uint64{unix.AF_BLUETOOTH, unix.SOCK_STREAM}, perm},
		{"socketpair", []uint64{unix.AF_UNIX, unix.SOCK_STREAM}, allow}, {"socketpair", []uint64{unix.AF_TIPC, unix.SOCK_STREAM}, perm},
		{"socket", []uint64{unix.AF_NETLINK}, allow},
		{"socket", []uint64{unix.AF_VSOCK}, perm}, {"socket", []uint64{unix.AF_ALG}, perm},
		{"socket", []uint64{1<<32 | unix.AF_INET, unix.SOCK_STREAM}, perm}, {"socket", []uint64{unix.AF_MAX + 3}, perm},
		{"personality", []uint64{0}, allow}, {"personality", []uint64{0xffffffff}, allow},
		{"personality", []uint64{0x0040000}, perm}, // ADDR_NO_RANDOMIZE
		{"lsm_set_self_attr", []uint64{attrCurrent}, allow}, {"lsm_set_self_attr", []uint64{101}, perm},
		{"lsm_get_self_attr", []uint64{attrCurrent}, allow}, {"lsm_list_modules", nil, perm},
	} {
		nr, ok := m.numbers[c.call]
		if !ok {
			t.Errorf("%s is not in the table", c.call)
			continue
		}
		if got := ask(t, vm, data(amd64, nr, c.args...)); got != c.want {
			t.Errorf("%s%#x: %#x, want %#x", c.call, c.args, got, c.want)
		}
		if got := ask(t, vm, data(i386, nr, c.args...)); got != kill {
			t.Errorf("%s of i386: %#x, want kill", c.call, got)
		}
		if got := ask(t, vm, data(amd64, nr|x32Bit, c.args...)); got != kill {
			t.Errorf("%s of x32: %#x, want kill", c.call, got)
		}
	}
	for _, nr := range []uint32{336, 423, 470, 999, 100000, x32Bit - 1, 0xffffffff} {
		if got := ask(t, vm, data(amd64, nr)); got != nosys {
			t.Errorf("unknown call %d: %#x, want ENOSYS", nr, got)
		}
	}
}

// The binary search gives what a plain reading of the rules gives, for every
// number and for arguments around every value that a rule names.
func TestSearch(t *testing.T) {
	rules, _, err := Profile{}.rules()
	if err != nil {
		t.Fatal(err)
	}
	for goarch, audit := range map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64} {
		m, err := machineOf(goarch)
		if err != nil {
			t.Fatal(err)
		}
		prog, err := compile(m, rules, perm)
		if err != nil {
			t.Fatal(err)
		}
		vm := machineVM(t, prog)
		names := map[uint32]string{}
		for name, nr := range m.numbers {
			names[nr] = name
		}
		for nr := range uint32(1200) {
			for _, arg := range interesting(rules[names[nr]]) {
				want := plain(names[nr], rules[names[nr]], arg)
				if got := ask(t, vm, data(audit, nr, arg, arg)); got != want {
					t.Errorf("%s: %s(%d)(%#x): %#x, want %#x", goarch, names[nr], nr, arg, got, want)
				}
			}
		}
	}
}

func interesting(rules []rule) []uint64 {
	args := []uint64{0, 1, ^uint64(0)}
	for _, r := range rules {
		for _, c := range r.conds {
			args = append(args, c.value, c.value-1, c.value+1, c.value|1<<32, c.mask, c.mask>>1)
		}
	}
	return args
}

// plain reads the rules one by one.
func plain(name string, rules []rule, arg uint64) verdict {
	if name == "" {
		return nosys
	}
	otherwise := perm
	for _, r := range rules {
		if len(r.conds) == 0 {
			otherwise = r.then
			break
		}
	}
	for _, r := range rules {
		if len(r.conds) == 0 {
			continue
		}
		all := true
		for _, c := range r.conds {
			arg := arg
			if c.arg > 1 {
				arg = 0 // as asked
			}
			switch {
			case c.mask != 0:
				all = all && arg&c.mask == c.value
			case c.op == "SCMP_CMP_LT":
				all = all && arg < c.value
			case c.op == "SCMP_CMP_NE":
				all = all && arg != c.value
			default:
				all = all && arg == c.value
			}
		}
		if all {
			return r.then
		}
	}
	return otherwise
}

func TestDefault(t *testing.T) {
	prog, err := Default()
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		if err == nil {
			t.Error("a filter without a table for " + runtime.GOARCH)
		}
		return
	}
	if err != nil || len(prog) == 0 || len(prog) > maxProgram {
		t.Fatalf("%d instructions, %v", len(prog), err)
	}
}

func FuzzTable(f *testing.F) {
	f.Add("read 0\nwrite 1\n")
	f.Add("x")
	f.Fuzz(func(t *testing.T, text string) {
		numbers, err := parseTable(text)
		if err != nil {
			return
		}
		if _, err := compile(&machine{numbers: numbers}, nil, perm); err != nil && len(numbers) < 500 {
			t.Error(err)
		}
	})
}
