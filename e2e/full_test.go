package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"liege/emperor/control"
	"liege/vassal"
)

// TestFullRunDir: a generation that becomes ready while there is no room in the run
// directory serves, says what is wrong with it, and outlives an Emperor that is killed
// once there is room again.
func TestFullRunDir(t *testing.T) {
	r := layRealm(t)
	if err := os.Mkdir(r.run, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("run", r.run, "tmpfs", 0, "size=2m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(r.run, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r.begin()
	r.write("app/slow.py", "import os, time\nwhile not os.path.exists('signs/go'):\n    time.sleep(0.02)\n"+hello("full"))
	r.write("app/signs/go", "")
	r.drop("slow", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/slow.py\nready-timeout = 60\n")
	addr := r.up("slow").Listen[0]
	if err := os.Remove(filepath.Join(r.dir, "app/signs/go")); err != nil {
		t.Fatal(err)
	}
	r.liege("reload", "slow", "--no-wait")
	r.until("the second one loads", func() bool {
		text, err := os.ReadFile(filepath.Join(r.run, "vassals/v-slow/gen-2.json"))
		return err == nil && strings.Contains(string(text), `"verified": true`)
	})
	r.fill(t)
	r.write("app/signs/go", "")
	r.until("the second one serves", func() bool { v := r.status("slow"); return v.Generation == 2 && v.Pending == nil })
	unsaved := func(v control.Vassal) bool {
		return slices.ContainsFunc(v.Problems, func(p vassal.Problem) bool { return p.Code == vassal.CodeNotSaved })
	}
	serves := r.status("slow")
	if !unsaved(serves) {
		t.Errorf("status shows nothing: %v", serves.Problems)
	}
	if err := os.Remove(filepath.Join(r.run, "filler")); err != nil {
		t.Fatal(err)
	}
	r.until("it is recorded", func() bool { return !unsaved(r.status("slow")) })
	r.kill()
	if err := syscall.Kill(*serves.PID, 0); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.until("it is found", func() bool { return strings.Contains(r.said.String(), "found running") })
	if code, body := r.get(addr, "/"); code != 200 || body != "full" {
		t.Errorf("%d %q", code, body)
	}
	r.up("slow")
}

// fill leaves no room in the run directory.
func (r *realm) fill(t *testing.T) {
	t.Helper()
	f, err := os.Create(filepath.Join(r.run, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}
