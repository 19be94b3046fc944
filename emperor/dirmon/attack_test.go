package dirmon

import (
	"os"
	"strings"
	"testing"
	"time"

	"liege/emperor"
	"liege/internal/testenv"
)

// A06: of a file that is huge, or that grows while it is read, no more is kept
// than MaxFile.
func TestHugeAndGrowing(t *testing.T) {
	testenv.Leaks(t)
	h := newHost(t)
	h.write("/etc/vassals/sparse.ini", "", 0, 0o644)
	h.must(os.Truncate(h.path("/etc/vassals/sparse.ini"), 1<<40))
	h.write("/etc/vassals/grows.ini", "[uwsgi]\n", alice, 0o644)
	f, err := os.OpenFile(h.path("/etc/vassals/grows.ini"), os.O_WRONLY|os.O_APPEND, 0)
	h.must(err)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for chunk := strings.Repeat("#", 64<<10); ; {
			select {
			case <-stop:
				return
			default:
				_, _ = f.WriteString(chunk)
				if fi, err := f.Stat(); err == nil && fi.Size() > 16*MaxFile {
					_ = f.Truncate(int64(len(chunk)))
				}
			}
		}
	}()
	m := h.monitor("/etc/vassals")
	for range 300 {
		for _, f := range h.scan(m).Files {
			if len(f.Text) > MaxFile || f.Problem == nil {
				t.Errorf("%s: %d bytes, %v; want a problem", f.Name, len(f.Text), f.Problem)
			}
		}
	}
	close(stop)
	<-stopped
	h.must(f.Truncate(8))
	h.must(f.Close())
	// The control: at rest it is read.
	h.want(m, `grows /etc/vassals/grows.ini uid 61001
		sparse /etc/vassals/sparse.ini too-big`)
}

// A04: a file that is given to somebody else is his from the next look on, with
// the same bytes and the same times.
func TestOwnerChanges(t *testing.T) {
	testenv.Leaks(t)
	h := newHost(t)
	h.write("/etc/vassals/a.ini", "[uwsgi]\n", alice, 0o644)
	m := h.monitor("/etc/vassals")
	stamps := map[string]bool{}
	for _, next := range []struct {
		uid  int
		want string
	}{{alice, "a /etc/vassals/a.ini uid 61001"}, {mallory, "a /etc/vassals/a.ini uid 61002"}, {0, "a /etc/vassals/a.ini operator"}, {alice, "a /etc/vassals/a.ini uid 61001"}} {
		h.must(os.Lchown(h.path("/etc/vassals/a.ini"), next.uid, next.uid))
		h.want(m, next.want)
		stamps[m.sent.Files[0].Stamp] = true
	}
	if len(stamps) != 3 {
		t.Errorf("%d stamps of three owners: a vassal would run on as the one before", len(stamps))
	}
}

// A19: what the clock says about a file decides nothing. Bytes that change are
// seen under the old time, and under one of the future.
func TestTimes(t *testing.T) {
	testenv.Leaks(t)
	h := newHost(t)
	m := h.monitor("/etc/vassals")
	seen := map[string]bool{}
	for i, at := range []time.Time{time.Now(), time.Now(), time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(0, 0)} {
		text := "[uwsgi]\n#" + strings.Repeat("x", i%2) + strings.Repeat("y", 1-i%2) + "\n"
		h.write("/etc/vassals/a.ini", text, 0, 0o644)
		h.must(os.Chtimes(h.path("/etc/vassals/a.ini"), at, at))
		s := h.scan(m)
		if len(s.Files) != 1 || string(s.Files[0].Text) != text {
			t.Fatalf("%v: got %q", at, lastText([]emperor.Snapshot{s}))
		}
		if seen[s.Files[0].Stamp] {
			t.Errorf("%v: the stamp is an earlier one", at)
		}
		seen[s.Files[0].Stamp] = true
	}
}

// E03: a user's FUSE whose server never answers holds up nobody: root is not let
// in, and does not wait.
func TestFUSE(t *testing.T) {
	testenv.Leaks(t)
	h := newHost(t)
	h.mkdir("/home/alice", alice, 0o755)
	h.write("/home/alice/a.ini", "[uwsgi]\n", alice, 0o644)
	h.mkdir("/home/mallory", mallory, 0o755)
	scan := func() <-chan string {
		done := make(chan string, 1)
		go func() { done <- show(h.scan(h.monitor("glob:///home/*/*.ini"))) }()
		return done
	}
	mute := testenv.NewMute(t, h.path("/home/mallory"), mallory, false)
	mute.Asked() // and so goes on
	select {
	case got := <-scan():
		if !strings.Contains(got, "alice_a /home/alice/a.ini uid 61001") {
			t.Errorf("got %s", got)
		}
	case <-time.After(time.Minute):
		t.Error("the scan waits for a user")
	}
	mute.Close()

	// Where the operator lets users let others in (user_allow_other of fuse.conf),
	// it does wait, as for a dead server: for a while, and what is known stays.
	h.write("/home/mallory/m.ini", "[uwsgi]\n", mallory, 0o644)
	m := h.monitor("glob:///home/*/*.ini")
	const both = `alice_a /home/alice/a.ini uid 61001
		mallory_m /home/mallory/m.ini uid 61002`
	h.want(m, both)
	mute = testenv.NewMute(t, h.path("/home/mallory"), mallory, true)
	m.patience = 100 * time.Millisecond
	asked := func() emperor.Snapshot { return hurry(t, m) }
	hung := asked()
	for deadline := time.Now().Add(time.Minute); !mute.Asked(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody asked: the test shows nothing")
		}
	}
	if len(m.stuck) != 1 || !hung.Partial || len(hung.Skipped) != 1 || !strings.Contains(hung.Skipped[0].Message, "does not answer") {
		t.Errorf("%d are stuck; %+v", len(m.stuck), hung.Skipped)
	}
	if !hung.MayHold("/home/mallory/x.ini") || hung.MayHold("/home/alice/x.ini") {
		t.Errorf("unseen: %q", hung.Unseen)
	}
	// The next ones do not wait for it, and see what others do.
	m.patience = Overdue
	h.write("/home/alice/b.ini", "[uwsgi]\n", alice, 0o644)
	if got := show(asked()); !strings.Contains(got, "alice_b") || !strings.Contains(got, "mallory_m") || len(m.stuck) != 1 {
		t.Errorf("beside one that hangs: %s", got)
	}
	mute.Close()
	for _, a := range m.stuck {
		<-a.done
	}
	h.want(m, `alice_a /home/alice/a.ini uid 61001
		alice_b /home/alice/b.ini uid 61001
		mallory_m /home/mallory/m.ini uid 61002`)
	if len(m.stuck) != 0 {
		t.Error("it answers again, and is not asked")
	}

	// One whose server has died: what is there is not gone.
	mute = testenv.NewMute(t, h.path("/home/mallory"), mallory, true)
	mute.Asked()
	mute.Die()
	for range 2 {
		dead := h.scan(m)
		if got := show(dead); !strings.Contains(got, "mallory_m") || !dead.Partial || !dead.MayHold("/home/mallory/x.ini") || dead.MayHold("/home/alice/x.ini") {
			t.Errorf("its server is dead: partial %v, unseen %q:\n%s", dead.Partial, dead.Unseen, got)
		}
	}
}

// hurry is a scan that a command asks for, which must end.
func hurry(t *testing.T, m *Monitor) emperor.Snapshot {
	t.Helper()
	done := make(chan emperor.Snapshot, 1)
	go func() {
		snap, _ := m.scan(time.Now(), true)
		done <- snap
	}()
	select {
	case snap := <-done:
		return snap
	case <-time.After(time.Minute):
		t.Fatal("the scan waits for a user")
		return emperor.Snapshot{}
	}
}
