package guest

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"liege/emperor/control"
	"liege/internal/testescape"
)

// TestEscape: a core that its tenant took over cannot leave its network with
// what it was given by the Emperor in its unit's own cgroup, nor with the same
// listener after that cgroup went with a killed Emperor (KERNEL 1).
func TestEscape(t *testing.T) {
	h := newHost(t)
	h.tolerate("webapp_t") // the core tries everything
	core := h.takenCore()
	bait := testescape.Bait(t, "127.0.0.1:25432")
	h.write("/srv/foo/attack", testescape.Attack(bait))
	var said string
	defer func() { // without the guard an attack may wait for what the listener's filter drops
		if t.Failed() {
			t.Log(said)
		}
	}()
	for _, c := range []struct {
		name string
		then func(control.Vassal) control.Vassal
	}{
		{"escape-at-once", func(v control.Vassal) control.Vassal { return v }},
		{"escape-later", func(v control.Vassal) control.Vassal {
			if err := syscall.Kill(h.emperor(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			now := h.replaced(v)
			if now.Listen[0] != v.Listen[0] {
				t.Errorf("it listens on %v now, was %v: it is another listener", now.Listen, v.Listen)
			}
			return now
		}},
	} {
		h.write("/srv/foo/app.py", hello("not this"))
		h.drop(c.name, appLines("foo"))
		testescape.Poke(t, c.then(h.up(c.name)).Listen[0])
		h.until("the attack is over", func() bool { said, _ = h.try("liege", "logs", c.name); return testescape.Over(said) })
		testescape.Guarded(t, said, bait)
	}
	testescape.Unguarded(t, core, bait)
}

// takenCore puts the tenant's core in the place of ours until the test ends.
func (h *host) takenCore() string {
	h.Helper()
	const core, ours = "/usr/libexec/liege/liege-core", "/usr/libexec/liege/liege-core.ours"
	program, err := os.ReadFile("hostilecore")
	if err := errors.Join(err, os.Rename(core, ours), os.WriteFile(core, program, 0o755)); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		if err := os.Rename(ours, core); err != nil {
			h.Error(err)
		}
	})
	h.run("restorecon", "-F", core)
	return core
}
