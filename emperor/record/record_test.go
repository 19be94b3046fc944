package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/vassal"
)

func open(t *testing.T) *Dir {
	t.Helper()
	d, err := Open(t.TempDir() + "/run[1]")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func example(gen int) Record {
	return Record{
		Name: "cgroup.procs", Gen: gen, File: "/etc/vassals/cgroup.procs.ini", PID: os.Getpid(), Cgroup: "/v-cgroup.procs/g1",
		Digest: "sha256:00", Ready: true, Drain: time.Minute, UID: 33, Box: json.RawMessage(`{
		"id": 1
	}`),
		Listeners: []Listener{{Address: "127.0.0.1:0", Bound: "127.0.0.1:4711", Protocol: vassal.HTTP, FD: 3, Cookie: 42, Line: 5}},
	}
}

func TestRoundTrip(t *testing.T) {
	d := open(t)
	for _, gen := range []int{1, 10, 9} {
		if err := d.Write(example(gen)); err != nil {
			t.Fatal(err)
		}
	}
	rs, err := d.Read("cgroup.procs")
	if err != nil || len(rs) != 3 || rs[0].Gen != 10 || rs[2].Gen != 1 {
		t.Fatalf("read %+v, %v", rs, err)
	}
	want := example(10)
	want.V, want.Boot, want.StartTime = Version, rs[0].Boot, rs[0].StartTime
	if diff := cmp.Diff(want, rs[0]); diff != "" {
		t.Error(diff)
	}
	if !d.Alive(rs[0]) {
		t.Error("this process is not alive")
	}
	for what, change := range map[string]func(*Record){
		"another process": func(r *Record) { r.StartTime++ },
		"another boot":    func(r *Record) { r.Boot = "x" },
		"no process":      func(r *Record) { r.PID = 0 },
	} {
		r := rs[0]
		if change(&r); d.Alive(r) {
			t.Errorf("%s is alive", what)
		}
	}
	names, err := d.Names()
	if err != nil || len(names) != 1 || names[0] != "cgroup.procs" {
		t.Errorf("names: %q, %v", names, err)
	}
	for _, gen := range []int{1, 9, 10, 11} {
		if err := d.Remove("cgroup.procs", gen); err != nil {
			t.Error(err)
		}
	}
	if err := d.RemoveVassal("cgroup.procs"); err != nil {
		t.Error(err)
	}
}

func TestLock(t *testing.T) {
	d := open(t)
	_, err := Open(d.Path())
	if want := fmt.Sprintf("%s is in use by the Emperor with pid %d", d.Path(), os.Getpid()); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// A child of a killed Emperor holds its lock until it has come to its exec.
func TestLockOfTheDead(t *testing.T) {
	d := open(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(d.Vassal("v"), "gen-3.json.tmp")
	if err := errors.Join(os.Mkdir(filepath.Dir(half), 0o711), os.WriteFile(half, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.lock.WriteAt(fmt.Appendf(nil, "%d\n", dead.Process.Pid), 0); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error)
	go func() {
		time.Sleep(50 * time.Millisecond)
		closed <- d.Close()
	}()
	next, err := Open(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	next.Close()
	if _, err := os.Stat(half); err == nil {
		t.Error("a record that was never whole is left")
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestStrange(t *testing.T) {
	d := open(t)
	if err := d.Write(example(1)); err != nil {
		t.Fatal(err)
	}
	dir := d.Vassal("cgroup.procs")
	good, err := os.ReadFile(dir + "/gen-1.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"gen-2.json": string(good), // of another generation
		"gen-3.json": "",
		"gen-4.json": strings.Replace(string(good), `"gen": 1`, `"gen": 4, "new": 1`, 1),
		"gen-5.json": strings.Repeat(" ", maxRecord+1),
	} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("gen-1.json", dir+"/gen-6.json"); err != nil {
		t.Fatal(err)
	}
	rs, err := d.Read("cgroup.procs")
	if len(rs) != 1 || rs[0].Gen != 1 || err == nil || strings.Count(err.Error(), "\n") != 4 {
		t.Errorf("read %d, %v", len(rs), err)
	}
}

func FuzzParse(f *testing.F) {
	b, err := json.Marshal(example(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"v":1,"name":"a","gen":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		if _, err := vassal.ParseName(string(r.Name)); err != nil || r.Gen < 1 || r.PID < 0 {
			t.Errorf("accepted %+v", r)
		}
	})
}

// TestMeter: what was counted of a user stays, and is nobody else's.
func TestMeter(t *testing.T) {
	d := open(t)
	f, err := d.Meter(1000, 8)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("counted!"), 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for uid, want := range map[int]string{1000: "counted!", 1001: strings.Repeat("\x00", 8)} {
		f, err := d.Meter(uid, 8)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if fi, _ := f.Stat(); err != nil || string(b) != want || fi.Mode().Perm() != 0o600 {
			t.Errorf("%d: %q %v", uid, b, err)
		}
		f.Close()
	}
}

// An Emperor that was killed, one of whose threads hangs on a file system that
// never answers, keeps nobody from taking its place; while it lives it does.
func TestLockOfWhatHangs(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.FUSE)
	for _, thread := range []string{"first", "other"} {
		t.Run(thread, func(t *testing.T) { lockOfWhatHangs(t, thread) })
	}
}

func lockOfWhatHangs(t *testing.T, thread string) {
	dir := t.TempDir()
	mount := filepath.Join(t.TempDir(), "mute")
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	mute := testenv.NewMute(t, mount, 0, true)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LIEGE_TEST_HANGS="+dir+":"+mount, "LIEGE_TEST_THREAD="+thread)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // it has the lock
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !mute.Asked(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody asked")
		}
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "in use by the Emperor with pid") {
		t.Errorf("while it lives: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !hangsDead(cmd.Process.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not hang: the test shows nothing")
		}
	}
	var wg sync.WaitGroup
	var mine atomic.Int32
	for range 8 { // one of them
		wg.Go(func() {
			if d, err := Open(dir); err == nil {
				mine.Add(1)
				time.Sleep(200 * time.Millisecond)
				d.Close()
			}
		})
	}
	wg.Wait()
	if mine.Load() != 1 {
		t.Errorf("%d have the lock of one that is dead but for a thread", mine.Load())
	}
	mute.Close()
	_ = cmd.Wait() // it was killed
}

// hang takes the lock and hangs, with its first thread or another one.
func hang(dir, mount string) {
	if _, err := Open(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(".")
	runtime.LockOSThread() // in init: the first thread
	if os.Getenv("LIEGE_TEST_THREAD") == "first" {
		_, _ = os.Stat(filepath.Join(mount, "x"))
	}
	go func() { _, _ = os.Stat(filepath.Join(mount, "x")) }()
	select {}
}

func init() {
	if dir, mount, ok := strings.Cut(os.Getenv("LIEGE_TEST_HANGS"), ":"); ok {
		hang(dir, mount)
	}
}

// A record that cannot be written leaves nothing behind, and the one before it
// stays.
func TestNotWritten(t *testing.T) {
	d := open(t)
	for what, block := range map[string]string{
		"half of it": d.file("shop", 1) + ".tmp", // a device that is always full
		"no rename":  d.file("shop", 1),          // a directory that is not empty
	} {
		t.Run(what, func(t *testing.T) {
			r := example(1)
			r.Name = "shop"
			if err := os.MkdirAll(d.Vassal("shop"), 0o711); err != nil {
				t.Fatal(err)
			}
			var err error
			if what == "no rename" {
				err = os.MkdirAll(filepath.Join(block, "x"), 0o755)
			} else {
				err = os.Symlink("/dev/full", block)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Write(r); err == nil {
				t.Fatal("it was written")
			}
			if what == "no rename" {
				if err := os.RemoveAll(block); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.RemoveVassal("shop"); err != nil {
				t.Errorf("something is left: %v", err)
			}
		})
	}
}
