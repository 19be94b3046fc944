package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
	"liege/vassal"
)

func TestStart(t *testing.T) {
	r := newRig(t)
	b := r.start(r.spec("shop", 1, "wait"))
	b.awaitOutput("waiting")
	if err := b.Verify(); err != nil {
		t.Error(err)
	}
	if u, err := b.Usage(); err != nil || u.MemoryBytes == 0 || u.Pids == 0 {
		t.Errorf("usage: got %+v, %v", u, err)
	}
	if err := b.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := b.wait(); e.Code != 0 || e.Signal != "" || e.OOM {
		t.Errorf("exit: got %+v, want status 0; log %q", e, b.output())
	}
	if err := b.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to a sandbox that is done: got %v, want %v", err, os.ErrProcessDone)
	}
}

func TestExit(t *testing.T) {
	r := newRig(t)
	b := r.start(r.spec("ends", 1, "exit", "3"))
	if e := b.wait(); e.Code != 3 || e.Signal != "" || e.OOM {
		t.Errorf("exit 3: got %+v", e)
	}
	b = r.start(r.spec("ends", 2, "wait"))
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	if e := b.wait(); e.Code != 137 || e.Signal != "SIGKILL" || e.OOM {
		t.Errorf("killed: got %+v", e)
	}
}

func TestFailureIsRead(t *testing.T) {
	r := newRig(t)
	spec := r.spec("fails", 1, "wait")
	spec.Plan.HookEnv = []string{"report"}
	b := r.start(spec)
	b.wait()
	select {
	case f := <-b.Failure():
		if f.Step != stage.StepAttach || f.Msg != "as asked" {
			t.Errorf("got %+v", f)
		}
	default:
		t.Error("done without the failure that the stage reported")
	}
}

// The log keeps its owner: the vassal's user opens /dev/stderr (KERNEL 25).
func TestLogKeepsOwner(t *testing.T) {
	r := newRig(t)
	fifo := filepath.Join(r.dir, "log")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(fifo, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spec := r.spec("log", 1, "write", "/dev/stderr")
	spec.Stdout = f
	r.start(spec).wait()
	buf := make([]byte, 100)
	n, err := f.Read(buf)
	if got := string(buf[:n]); err != nil || !strings.Contains(got, "<nil>") {
		t.Errorf("open /dev/stderr as the vassal: got %q, %v", got, err)
	}
}

// Every privilege that the stage forgets to drop has a name in the error.
func TestVerifyNamesTheField(t *testing.T) {
	r := newRig(t)
	for i, tc := range []struct {
		skip, field string
		change      func(*Sandbox)
	}{
		{skip: "bounding", field: "CapBnd"},
		{skip: "uid", field: "Uid"},
		{skip: "gid", field: "Gid"},
		{skip: "nnp", field: "NoNewPrivs"},
		{skip: "seccomp", field: "Seccomp"},
		{field: "Groups", change: func(s *Sandbox) { s.plan.Groups = []int{4} }},
		{field: "context", change: func(s *Sandbox) { s.plan.Context = "u:r:app_t:s0" }},
		{field: "namespace net", change: func(s *Sandbox) { s.hostNet = true }},
		{field: "namespace mnt", change: func(s *Sandbox) { s.spaces["mnt"] = "mnt:[1]" }},
		{field: "start time", change: func(s *Sandbox) { s.start++ }},
	} {
		t.Run(tc.field, func(t *testing.T) {
			spec := r.spec("v", i+1, "wait")
			if tc.skip != "" {
				spec.Plan.HookEnv = []string{"skip=" + tc.skip}
			}
			b := r.start(spec)
			b.awaitOutput("waiting")
			if tc.change != nil {
				if err := b.Verify(); err != nil {
					t.Fatal(err)
				}
				tc.change(b.Sandbox)
			}
			var m *Mismatch
			if err := b.Verify(); !errors.As(err, &m) && tc.field != "context" {
				t.Fatalf("verify: got %v, want a mismatch", err)
			} else if err == nil || m != nil && m.Field != tc.field {
				t.Errorf("verify: got %v, want %s", err, tc.field)
			}
		})
	}
}

func TestHostNet(t *testing.T) {
	r := newRig(t)
	spec := r.spec("host", 1, "wait")
	spec.HostNet = true
	b := r.start(spec)
	b.awaitOutput("waiting")
	if err := b.Verify(); err != nil {
		t.Error(err)
	}
}

// Names that are files of a cgroup are names like any other (KERNEL 22).
func TestNames(t *testing.T) {
	r := newRig(t)
	for _, name := range []vassal.Name{"cgroup.procs", "memory.max", "tasks", "g1", "emperor", vassal.Name(strings.Repeat("n", vassal.MaxName))} {
		b := r.start(r.spec(name, 1, "exit", "0"))
		if e := b.wait(); e.Code != 0 {
			t.Errorf("%s: got %+v", name, e)
		}
	}
	for _, spec := range []Spec{{ID: "../x-g1", Name: "x", Gen: 1}, {ID: "x-g1", Name: "../x", Gen: 1}, {ID: "x-g0", Name: "x"}} {
		if _, err := r.tryStart(t.Context(), r.m, spec); err == nil {
			t.Errorf("id %q, name %q, generation %d: started, want an error", spec.ID, spec.Name, spec.Gen)
		}
	}
	if v := r.m.vassals["../x"]; v != nil {
		t.Error("a bad name was taken in")
	}
}

func TestSameGenerationTwice(t *testing.T) {
	r := newRig(t)
	b := r.start(r.spec("twice", 1, "wait"))
	if _, err := r.tryStart(t.Context(), r.m, r.spec("twice", 1, "wait")); err == nil {
		t.Error("started twice")
	}
	b.awaitOutput("waiting")
	if err := b.Verify(); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

// Two Emperors do not touch each other's sandboxes.
func TestTwoManagers(t *testing.T) {
	r := newRig(t)
	other := r.manager(t.TempDir())
	if r.m.Node() == other.Node() {
		t.Fatalf("both at %s", r.m.Node())
	}
	b := r.start(r.spec("same", 1, "wait"))
	b.awaitOutput("waiting")
	if err := other.Sweep(func(vassal.Name, int) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(); err != nil {
		t.Errorf("after the other's sweep: %v", err)
	}
	// Its own sweep does end it.
	if err := r.m.Sweep(func(vassal.Name, int) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if e := b.wait(); e.Signal != "SIGKILL" {
		t.Errorf("after its own sweep: got %+v", e)
	}
}

func TestConcurrentStarts(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range 20 {
		wg.Go(func() {
			b, err := r.tryStart(t.Context(), r.m, r.spec(vassal.Name(fmt.Sprintf("c%d", i)), 1, "exit", "0"))
			if err != nil {
				t.Error(err)
				return
			}
			if e := b.wait(); e.Code != 0 {
				t.Errorf("%s: got %+v; log %q", b.id, e, b.output())
			}
		})
	}
	wg.Wait()
	t.Logf("20 starts and ends at once: %v", time.Since(began))
}

// A start that is given up at any point leaves nothing behind, and the same id
// starts again.
func TestAbort(t *testing.T) {
	r := newRig(t)
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	began := time.Now()
	b := r.start(r.spec("abort", 1, "wait"))
	takes := time.Since(began)
	b.Kill()
	b.wait()
	aborted := 0
	for range rounds {
		after := time.Duration(rand.Int64N(int64(takes) * 5 / 4))
		ctx, cancel := context.WithTimeout(t.Context(), after)
		b, err := r.tryStart(ctx, r.m, r.spec("abort", 1, "wait"))
		cancel()
		if err != nil {
			aborted++
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("given up after %v: got %v, want %v", after, err, context.DeadlineExceeded)
			}
			r.nothingOf("abort", 1)
			continue
		}
		if err := b.Kill(); err != nil {
			t.Error(err)
		}
		b.wait()
		r.nothingOf("abort", 1)
	}
	t.Logf("%d of %d starts were given up", aborted, rounds)
	if aborted == 0 {
		t.Error("no start was given up: the test shows nothing")
	}
}

// nothingOf fails the test if anything of a generation is there.
func (r *rig) nothingOf(name vassal.Name, gen int) {
	r.t.Helper()
	for _, mount := range r.m.trees.mounts {
		if _, err := os.Stat(filepath.Join(mount, r.m.all(), name.Dir(), fmt.Sprintf("g%d", gen))); err == nil {
			r.t.Errorf("cgroup of %s generation %d is left in %s", name, gen, mount)
		}
	}
	for _, dir := range []string{r.m.stateDir(), r.m.rootDir()} {
		if left := entries(dir); len(left) > 0 {
			r.t.Errorf("left in %s: %v", dir, left)
		}
	}
}

// A start that cannot work says why and leaves nothing.
func TestStartFails(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		name   string
		change func(*Spec)
		want   string
	}{
		{"missing source", func(s *Spec) { s.Root = append(s.Root, Mount{Source: "/no/such", Target: "/srv"}) }, "bind /srv: stat /no/such: no such file"},
		{"memory-max too small", func(s *Spec) { s.Limits.MemoryMax = 1 << 20 }, "memory-max is 1048576 bytes"},
		{"no stage", func(s *Spec) { s.Root = nil; s.Files = nil }, ""},
		{"record cannot be written", func(s *Spec) { s.Created = func(Record) error { return errors.New("disk full") } }, "disk full"},
		{"file in the way", func(s *Spec) {
			s.Files = append(s.Files, GenFile{Path: "/srv", Mode: 0o644}, GenFile{Path: "/srv/x", Mode: 0o644})
		}, "srv"},
		{"attach without mount", func(s *Spec) { s.Plan.Attach = []stage.Attach{{Mount: 0, Target: "/srv"}} }, "no mount 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := r.spec("fails", 1, "wait")
			tc.change(&spec)
			b, err := r.tryStart(t.Context(), r.m, spec)
			if tc.name == "no stage" { // the loader is missing: exec fails after the start
				if err == nil {
					b.wait()
				}
			} else if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
			r.nothingOf("fails", 1)
		})
	}
}

func TestForkBomb(t *testing.T) {
	r := newRig(t)
	spec := r.spec("bomb", 1, "forkbomb")
	spec.Limits.PidsMax = 60
	b := r.start(spec)
	b.awaitOutput("waiting")
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		u, err := b.Usage()
		if err != nil {
			t.Fatal(err)
		}
		if u.Pids > 60 {
			t.Fatalf("pids: got %d, limit is 60", u.Pids)
		}
		if u.Pids >= 50 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("pids: got %d, the bomb does not go off; log %q", u.Pids, b.output())
		}
	}
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	b.wait()
}

func TestMemoryMax(t *testing.T) {
	r := newRig(t)
	spec := r.spec("eater", 1, "eat")
	spec.Limits.MemoryMax = 64 << 20
	b := r.start(spec)
	if e := b.wait(); !e.OOM || e.Signal != "SIGKILL" || !strings.Contains(e.Reason, "memory-max") {
		t.Errorf("exit: got %+v, want out of memory", e)
	}
	v, err := r.m.Vassal("eater")
	if err != nil {
		t.Fatal(err)
	}
	if u, err := v.Usage(); err != nil || u.OOMKills < 1 || u.CPUUsec == 0 {
		t.Errorf("usage of the vassal after its generation: got %+v, %v", u, err)
	}
}

// A bare generation has limits of its own, and neither sees nor changes what
// is the vassal's.
func TestBare(t *testing.T) {
	r := newRig(t)
	first := r.spec("bare", 1, "write", "/tmp/kept", "/dev/shm/kept")
	first.Limits = vassal.Limits{MemoryMax: 300 << 20, PidsMax: 70}
	r.start(first).wait()
	spec := r.spec("bare", 2, "wait")
	spec.Bare, spec.Limits = true, vassal.Limits{MemoryMax: 100 << 20, PidsMax: 30}
	b := r.start(spec)
	b.awaitOutput("waiting")
	read := func(inner string) [2]int64 {
		memory := "memory.limit_in_bytes"
		if r.m.trees.v2() {
			memory = "memory.max"
		}
		return [2]int64{readInt(r.m.trees.dir("memory", inner), memory), readInt(r.m.trees.dir("pids", inner), "pids.max")}
	}
	if got, want := read(b.cgroup), [2]int64{100 << 20, 30}; got != want {
		t.Errorf("its limits are %d, want %d", got, want)
	}
	if got, want := read(b.v.cgroup()), [2]int64{300 << 20, 70}; got != want {
		t.Errorf("the vassal's limits are %d, want %d", got, want)
	}
	if rec := b.Record(); !rec.Bare {
		t.Errorf("record %+v: the next Emperor would take it for the vassal's", rec)
	}
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	b.wait()
	look := r.spec("bare", 3, "exists", "/tmp/kept", "/dev/shm/kept", "/var/tmp")
	look.Bare = true
	x := r.start(look)
	x.wait()
	if got, want := x.output(), "/tmp/kept false\n/dev/shm/kept false\n/var/tmp true\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	write := r.spec("bare", 4, "write", "/tmp/x")
	write.Bare = true
	w := r.start(write)
	w.wait()
	if got := w.output(); !strings.Contains(got, "read-only") {
		t.Errorf("it wrote into its /tmp: %q", got)
	}
}

// libcontainer's init, a Go program, starts within a small pids-max too.
func TestSmallPidsMax(t *testing.T) {
	r := newRig(t)
	spec := r.spec("few", 1, "wait")
	spec.Limits.PidsMax = 20
	b := r.start(spec)
	b.awaitOutput("waiting")
	u, err := b.Usage()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the fake core has %d", u.Pids)
}
