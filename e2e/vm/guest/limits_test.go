package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hungry takes memory when asked to.
const hungry = `
import os
def application(environ, start_response):
    path = environ["PATH_INFO"]
    kept = b"x" * (200 << 20) if path == "/eat" else b""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % len(kept)]
`

// TestLimits: what the file allows is in force after systemd has read its
// units anew, and going past it hurts nobody else.
func TestLimits(t *testing.T) {
	h := newHost(t)
	other := h.app("bar", "not hurt")
	h.write("/srv/foo/app.py", hungry)
	lines := []string{"memory-max = 100M", "pids-max = 50", "cpu-weight = 50", "io-max = wbps=20M"}
	kept := []struct{ controller, file, want string }{
		{"memory", "memory.max", fmt.Sprint(100 << 20)}, {"memory", "memory.swap.max", "0"}, {"memory", "memory.high", fmt.Sprint(100 << 20)},
		{"pids", "pids.max", ""}, {"cpu", "cpu.weight", "50"}, {"io", "io.max", ""},
	}
	if cgroupV1() {
		kept = kept[:0]
		kept = append(kept, []struct{ controller, file, want string }{
			{"memory", "memory.limit_in_bytes", fmt.Sprint(100 << 20)}, {"memory", "memory.memsw.limit_in_bytes", fmt.Sprint(100 << 20)},
			{"pids", "pids.max", ""}, {"cpu", "cpu.shares", "512"}, {"blkio", "blkio.throttle.write_bps_device", ""},
		}...)
	} else {
		// What goes past less than memory-max is slowed, and hardly gets there.
		lines = append(lines, "memory-high = 100M", "oom-group = true")
	}
	h.drop("foo", appLines("foo", lines...))
	v := h.up("foo")
	check := func() {
		t.Helper()
		for _, l := range kept {
			got, err := os.ReadFile(filepath.Join(cgroupDir(l.controller, *v.Cgroup), l.file))
			if text := strings.TrimSpace(string(got)); err != nil || l.want != "" && text != l.want || text == "max" || text == "" {
				t.Errorf("%s is %q, %v; want %s", l.file, text, err, l.want)
			}
		}
	}
	check()
	h.run("systemctl", "daemon-reload")
	check()
	h.run("systemctl", "set-property", "--runtime", "liege.slice", "IOWeight=90") // systemd writes to these cgroups
	check()

	emperor := h.emperor()
	if code, body, err := get(v.Listen[0], "/eat"); err == nil && code == 200 {
		t.Errorf("200M of 100M: %d %q", code, body)
	}
	h.until("the kernel's OOM killer is counted", func() bool { return h.status("foo").OOMKills > 0 })
	h.until("foo serves again", func() bool { code, body, err := get(v.Listen[0], "/"); return err == nil && code == 200 && body == "0" })
	h.answers(other.Listen[0], "/", "not hurt")
	if now := h.emperor(); now != emperor || *h.status("bar").PID != *other.PID {
		t.Errorf("Emperor %d, was %d; bar %d, was %d", now, emperor, *h.status("bar").PID, *other.PID)
	}
	for _, unit := range []string{"liege", "liege-vassals"} {
		if state := h.run("systemctl", "is-active", unit); state != "active" {
			t.Errorf("%s is %s", unit, state)
		}
	}

	// Without the limit the same request is answered.
	h.drop("foo", appLines("foo", "memory-max = 800M"))
	h.answers(h.up("foo").Listen[0], "/eat", fmt.Sprint(200<<20))
}
