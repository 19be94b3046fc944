package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"liege/internal/testenv"
)

// soon runs do, which must not wait for anybody.
func soon(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal(what + ": still waiting")
	}
}

// TestEyesOfCaller: who reads a log waits for no FIFO and is led nowhere by a
// link in its place, whoever that is.
func TestEyesOfCaller(t *testing.T) {
	dir := t.TempDir()
	log, fifo, link := filepath.Join(dir, "log"), filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(log, nil, 0o600), syscall.Mkfifo(fifo, 0o600), os.Symlink(log, link)); err != nil {
		t.Fatal(err)
	}
	e := &eyes{ctx: t.Context(), v: vassalOf(t, fmt.Sprintf(`{"uid":%d,"gid":%d}`, os.Getuid(), os.Getgid()))}
	defer e.close()
	for path, want := range map[string]bool{log: true, fifo: false, link: false, "/dev/null": false, dir: false, "": false} {
		soon(t, path, func() {
			f, err := e.open(path)
			if (err == nil) != want {
				t.Errorf("%q: %v", path, err)
			}
			if err == nil {
				f.Close()
			}
		})
	}
}

// TestEyesOfRoot: root reads what is root's alone, and of the rest what the
// vassal's user may read, wherever that user has the path lead meanwhile.
func TestEyesOfRoot(t *testing.T) {
	testenv.Need(t, testenv.Root)
	const nobody = 65534
	home, err := os.MkdirTemp("", "liege-home-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	secret := filepath.Join(home, "secret") // root's, in a directory of the user's
	for _, err := range []error{
		os.Mkdir(home+"/log", 0o755), os.WriteFile(home+"/log/app.log", []byte("No such file or directory: '/etc/hostname'\n"), 0o640), os.WriteFile(secret, []byte("geheim\n"), 0o600),
		os.Symlink("/etc", home+"/etc"), os.Symlink("/dev", home+"/dev"), syscall.Mkfifo(home+"/fifo", 0o666), os.Symlink("/root", home+"/root"),
		os.Chown(home, nobody, nobody), os.Chown(home+"/log", nobody, nobody), os.Chown(home+"/log/app.log", nobody, nobody), os.Chmod(home, 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	logs := func(path string) (string, error) {
		var out bytes.Buffer
		a := &app{stdio: stdio{out: &out}}
		var err error
		soon(t, path, func() {
			err = a.tail(t.Context(), vassalOf(t, `{"name":"m","uid":65534,"gid":65534,"log":"`+path+`"}`), 50, false)
		})
		return out.String(), err
	}
	if got, err := logs(home + "/log/app.log"); err != nil || !strings.HasPrefix(got, "No such") {
		t.Errorf("the log: %q, %v", got, err)
	}
	if got, err := logs("/etc/shadow"); err != nil || !strings.Contains(got, "root:") {
		t.Errorf("what is root's alone is not read: %v", err)
	}
	for _, path := range []string{home + "/etc/shadow", home + "/dev/watchdog", home + "/dev/zero", home + "/fifo", secret} {
		if got, err := logs(path); err == nil || got != "" {
			t.Errorf("%s: %.20q, %v; want an error", path, got, err)
		}
	}
	if got, err := logs("/proc/self/status"); err == nil {
		t.Errorf("procfs: %.20q", got)
	}
	hints := func(v string) (got string) {
		soon(t, "hints", func() {
			got = strings.Join((&app{}).hints(t.Context(), vassalOf(t, `{"name":"m","state":"backoff","file":"/none","uid":65534,"gid":65534,`+v+`}`)), "\n")
		})
		return got
	}
	if got := hints(`"log":"` + home + `/log/app.log"`); !strings.Contains(got, "/etc/hostname exists on the host") {
		t.Errorf("hint: %q", got)
	}
	if got := hints(`"log":"` + home + `/fifo"`); got != "" {
		t.Errorf("hint of a FIFO: %q", got)
	}
	// What the user cannot see is not there: the words are the vassal's.
	hidden := home + "/shut"
	if err := errors.Join(os.Mkdir(hidden, 0o700), os.WriteFile(hidden+"/x", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got := hints(`"problems":[{"severity":"error","message":"No such file or directory: '` + hidden + `/x'"}]`); got != "" {
		t.Errorf("root's own eyes: %q", got)
	}
}

// TestPatiently: what hangs in a file system is left behind.
func TestPatiently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wake := make(chan struct{})
		hang := func() error { <-wake; return nil }
		if err := patiently(t.Context(), time.Hour, hang); !errors.Is(err, errNoAnswer) {
			t.Errorf("it hangs: %v", err)
		}
		close(wake)
		if err := patiently(t.Context(), time.Hour, hang); err != nil {
			t.Errorf("it does not: %v", err)
		}
	})
}
