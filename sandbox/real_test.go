package sandbox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/sandbox/seccomp"
	"liege/sandbox/stage"
	"liege/vassal"
)

// The real stage becomes the real core, which says hello as whom it was
// planned; on request it drains.
func TestRealPrograms(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the programs")
	}
	testenv.Need(t, testenv.Root, testenv.OpenTree)
	bin := testenv.Binaries(t)
	testenv.Leaks(t)
	r := &rig{t: t, dir: t.TempDir()}
	cfg := r.config(r.dir)
	cfg.Stage, cfg.Core = filepath.Join(bin, "liege-stage"), filepath.Join(bin, "liege-core")
	r.m = r.managerOf(cfg)

	filter, err := seccomp.Default()
	if err != nil {
		t.Fatal(err)
	}
	spec := r.spec("real", 1)
	spec.Plan.Seccomp = filter
	spec.Plan.Groups = []int{33, 100}
	spec.Plan.Args = []string{"liege-core real", "--control=3", "--app=4"}
	app, err := json.Marshal(&vassal.App{Name: "real", Generation: 1, Hostname: "real", Dir: "/"})
	if err != nil {
		t.Fatal(err)
	}
	b, control := r.startReal(spec, app)
	if m := read(t, b, control); m.Type != vassal.Hello {
		t.Fatalf("first message: got %+v; log %q", m, b.output())
	}
	if err := b.Verify(); err != nil {
		t.Error(err)
	}
	status, err := readStatus(b.PID())
	if err != nil {
		t.Fatal(err)
	}
	got := []string{status["Name"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]}
	if diff := cmp.Diff([]string{"liege-core", stage.CapSet(nil), "1", "2"}, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	say, err := json.Marshal(&vassal.Message{V: vassal.MessageVersion, Type: vassal.Verified})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := control.Write(say); err != nil {
		t.Error(err)
	}
	if m := read(t, b, control); m.Type != vassal.Ready {
		t.Errorf("second message: got %+v; log %q", m, b.output())
	}
	if err := b.Signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if e := b.wait(); e.Signal == "SIGKILL" {
		t.Errorf("exit: got %+v; log %q", e, b.output())
	}

	// A core that is not there: the stage says so.
	spec = r.spec("real", 2, "core")
	spec.Plan.Seccomp = filter
	spec.Plan.Exec = "/no/such/core"
	b, _ = r.startReal(spec, app)
	b.wait()
	select {
	case f := <-b.Failure():
		if f.Step != stage.StepExec || f.What != "/no/such/core" {
			t.Errorf("failure: got %+v", f)
		}
	default:
		t.Errorf("no failure was reported; log %q", b.output())
	}
}

func (r *rig) startReal(spec Spec, app []byte) (*box, *os.File) {
	r.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	control, core := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	r.t.Cleanup(func() { control.Close() })
	doc, err := stage.Seal("app", app)
	if err != nil {
		r.t.Fatal(err)
	}
	defer doc.Close()
	defer core.Close()
	log, err := os.OpenFile(filepath.Join(r.dir, spec.ID+".log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	spec.Control, spec.App, spec.Stdout = core, doc, log
	s, err := r.m.Start(r.t.Context(), spec)
	if err != nil {
		r.t.Fatal(err)
	}
	b := &box{Sandbox: s, t: r.t, log: log.Name()}
	r.t.Cleanup(func() { b.Kill(); b.wait() })
	return b, control
}

func read(t *testing.T, b *box, control *os.File) vassal.Message {
	t.Helper()
	if err := control.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, vassal.MaxMessage)
	n, err := control.Read(buf)
	if err != nil {
		t.Fatalf("control: %v; log %q", err, b.output())
	}
	var m vassal.Message
	if err := json.Unmarshal(buf[:n], &m); err != nil {
		t.Fatal(err)
	}
	return m
}
