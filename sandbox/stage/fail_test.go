package stage_test

import (
	"debug/elf"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/sandbox/stage"
	"liege/vassal"
)

// What fails after the last Go instruction is still reported.
func TestExecFailure(t *testing.T) {
	testenv.Leaks(t)
	for _, c := range []struct {
		program string
		errno   unix.Errno
	}{
		{"/etc/passwd", unix.EACCES},
		{"/nowhere/liege-core", unix.ENOENT},
	} {
		p := newPlan(t, "true")
		p.Exec = c.program
		r := start(t, p, launch{listeners: 1})
		want := &stage.Failure{Step: stage.StepExec, What: c.program, Msg: c.errno.Error(), Errno: int(c.errno)}
		if d := cmp.Diff(want, r.failure); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}

// A context on a kernel without SELinux: the stage's own check says so, and if
// that were not there the constructor would not go on to the core.
func TestSetconFailure(t *testing.T) {
	testenv.Need(t, testenv.NoSELinux)
	testenv.Leaks(t)
	for _, byExec := range []bool{false, true} {
		for _, without := range []string{"", "domain"} {
			p := newPlan(t, "echo the core runs")
			p.Own, p.Context, p.ByExec = "system_u:system_r:liege_stage_t:s0", "system_u:system_r:webapp_shop_t:s0", byExec
			p.Line = vassal.Origin{File: "/etc/vassals/shop.ini", Line: 9}
			r := start(t, p, launch{without: without})
			if r.failure == nil || r.out != "" {
				t.Fatalf("without %q: started: %s", without, r.out)
			}
			if without == "" && r.failure.Step != stage.StepDomain {
				t.Errorf("%+v", r.failure)
			}
			if without != "" && (r.failure.Step != stage.StepSetcon || r.failure.At != p.Line || r.failure.What != p.Context || r.failure.Errno == 0) {
				t.Errorf("by exec %v: %+v", byExec, r.failure)
			}
		}
	}
}

// A command of a root hook that cannot get its own domain does not run.
func TestHookDomainFailure(t *testing.T) {
	testenv.Need(t, testenv.NoSELinux)
	testenv.Leaks(t)
	p := newPlan(t, "echo the core runs")
	p.Own, p.HookCon = "system_u:system_r:liege_stage_t:s0", "system_u:system_r:liege_hook_t:s0"
	p.Hooks = []vassal.Hook{{Phase: vassal.AsRoot, Action: "exec", Arg: "echo the hook runs", At: vassal.Origin{File: "shop.ini", Line: 3}}}
	r := start(t, p, launch{without: "domain"})
	if r.failure == nil || r.out != "" || r.failure.Step != stage.HookStep(vassal.AsRoot) || r.failure.At.Line != 3 {
		t.Errorf("%+v, %q", r.failure, r.out)
	}
}

func TestLimits(t *testing.T) {
	testenv.Leaks(t)
	p := newPlan(t, "ulimit -n; ulimit -c; ulimit -Hc")
	at := vassal.Origin{File: "/etc/vassals/shop.ini", Line: 3}
	p.Rlimits = []vassal.Rlimit{{Resource: "nofile", Value: 77, At: at}, {Resource: "core", Value: 0, At: at}}
	p.OOMScore = -1000 // lower than a test may go: it keeps what it has
	if testenv.Have(testenv.SysResource) == nil {
		p.OOMScore = 0
	}
	if r := start(t, p, launch{}); r.failure != nil || r.out != "77\n0\n0\n" {
		t.Errorf("%v, %q", r.failure, r.out)
	}
	if r := start(t, newPlan(t, "ulimit -n"), launch{}); r.out != "1024\n" {
		t.Errorf("soft limit without a line: %q", r.out)
	}
	p = newPlan(t, "ulimit -n")
	p.Rlimits = []vassal.Rlimit{{Resource: "nofile", Value: 1 << 30, At: at}} // above fs.nr_open
	r := start(t, p, launch{})
	if r.failure != nil && (r.failure.At != at || r.failure.Step != stage.StepLimits) {
		t.Errorf("%+v", r.failure)
	}
	if r.failure == nil && !strings.Contains(r.out, "liege: /etc/vassals/shop.ini:3: limit of nofile") {
		t.Errorf("no word about the smaller limit: %q", r.out)
	}
}

var seccompText = regexp.MustCompile(`"seccomp":"[^"]+"`)

func TestDamagedPlan(t *testing.T) {
	testenv.Leaks(t)
	for name, tamper := range map[string]func([]byte) []byte{
		"empty":               func(b []byte) []byte { return nil },
		"cut":                 func(b []byte) []byte { return b[:len(b)/2] },
		"unknown field":       func(b []byte) []byte { return append([]byte(`{"shell":true,`), b[1:]...) },
		"two":                 func(b []byte) []byte { return append(b, b...) },
		"other fds":           func(b []byte) []byte { return []byte(strings.Replace(string(b), `"listeners":0`, `"listeners":1`, 1)) },
		"no seccomp":          func(b []byte) []byte { return seccompText.ReplaceAll(b, []byte(`"seccomp":""`)) },
		"half an instruction": func(b []byte) []byte { return seccompText.ReplaceAll(b, []byte(`"seccomp":"BgAAAA=="`)) },
	} {
		r := start(t, newPlan(t, "echo the core runs"), launch{tamper: tamper})
		if r.failure == nil || r.failure.Step != stage.StepPlan || r.out != "" {
			t.Errorf("%s: %+v, %q", name, r.failure, r.out)
		}
	}
}

// The plan cannot be an ordinary file, which somebody could still write to.
func TestUnsealedPlan(t *testing.T) {
	stageBinary(t)
	fd, err := unix.MemfdCreate("plan", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	open := os.NewFile(uintptr(fd), "plan")
	defer open.Close()
	if err := stage.ReadSealed(int(open.Fd())); err == nil || !strings.Contains(err.Error(), "not sealed") {
		t.Errorf("unsealed: %v", err)
	}
	sealed := must(stage.Seal("plan", []byte("{}")))
	defer sealed.Close()
	if err := stage.ReadSealed(int(sealed.Fd())); err != nil {
		t.Errorf("sealed: %v", err)
	}
	if _, err := sealed.WriteString("x"); err == nil {
		t.Error("a sealed file was written to")
	}
}

// No loader and no name service of a tenant's root may run as root.
func TestStatic(t *testing.T) {
	f, err := elf.Open(stageBinary(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("liege-stage has a %v segment", p.Type)
		}
	}
	syms, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range syms {
		if strings.Contains(s.Name, "nss_") && strings.HasPrefix(s.Name, "__nss_lookup") {
			t.Errorf("liege-stage contains %s", s.Name)
		}
	}
}
