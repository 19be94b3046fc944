package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"liege/internal/testenv"
)

// TestKernel boots a micro machine with the tests of package kernel.
func TestKernel(t *testing.T) {
	testenv.Need(t, testenv.VM)
	t.Parallel()
	w := newWork(t)
	runTests(t, w, Machine{System: buildMicro(t, w), Limit: 2 * time.Minute})
}

func buildMicro(t *testing.T, w *Work) System {
	t.Helper()
	base, err := w.Base(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := only(filepath.Join(base, "boot/vmlinuz-*"))
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(w.Dir, name) }
	compile(t, "build", "-o", in("init"), "./e2e/vm/micro")
	compile(t, "test", "-c", "-o", in("tests"), "./e2e/vm/kernel")
	cmd := exec.CommandContext(t.Context(), "secilc", "--policyvers=33", "--output="+in("policy"), "--filecontext="+os.DevNull, "kernel/policy.cil")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	s := System{Kernel: kernel, Initrd: in("initrd")}
	files := []File{
		{Name: "proc"}, {Name: "sys"}, {Name: "dev"}, {Name: "tmp"}, {Name: "liege-micro"},
		{Name: "init", From: in("init")}, {Name: "tests", From: in("tests")}, {Name: "policy", From: in("policy")},
		{Name: "liege-stage", From: filepath.Join(testenv.Binaries(t), "liege-stage")},
	}
	if err := Initramfs(s.Initrd, files); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
