package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"liege/vassal"
)

// TestRelayGone: the relay of a killed Emperor's survivor dies, beside the next
// Emperor or before it: while no successor can start, status and log say what is
// not reached; the successor has a relay of its own, and no request is lost.
func TestRelayGone(t *testing.T) {
	r := layRealm(t)
	r.write("app/holder.py", holder)
	to := words(t)
	r.begin()
	lines := "uid = www-data\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = holder.py\nconnect = " + to + "\n"
	r.drop("v", lines)
	addr := r.up("v").Listen[0]
	reached := func(want bool) {
		t.Helper()
		_, got := r.get(addr, "/?"+to)
		if _, err := strconv.Atoi(got); (err == nil) != want {
			t.Errorf("the service is reached: %q, want %v", got, want)
		}
	}
	told := func() bool {
		for _, p := range r.status("v").Problems {
			if p.Code == vassal.CodeNotReachable && p.Key == "connect" && strings.Contains(p.Message, "its relay has ended") {
				return true
			}
		}
		return false
	}
	killRelay := func() {
		t.Helper()
		all := relays(t)
		if len(all) != 1 {
			t.Fatalf("relays %v", all)
		}
		syscall.Kill(all[0], syscall.SIGKILL)
	}
	said := 0
	for _, before := range []bool{false, true} {
		stop := r.loop(addr)
		reached(true)
		r.kill()
		if before {
			killRelay()
		}
		r.drop("v", lines+"hook-as-root = exec:false\n")
		r.start()
		r.until("the successor does not start", func() bool {
			v := r.status("v")
			return v.Error != nil && v.Error.Severity == vassal.Error && v.PID != nil
		})
		if !before {
			reached(true)
			if told() {
				t.Error("a relay that runs is said to have ended")
			}
			killRelay()
		}
		r.until("status says that the relay is gone", told)
		_, _ = r.get(addr, "/?"+to) // what the app held breaks
		reached(false)
		log, err := os.ReadFile(filepath.Join(r.log, "v.log"))
		said++
		if n := strings.Count(string(log), "its relay has ended"); err != nil || n != said {
			t.Errorf("the log says it %d times, %v; want %d", n, err, said)
		}
		r.drop("v", lines)
		r.up("v")
		reached(true)
		if told() || len(relays(t)) == 0 {
			t.Errorf("the successor: relays %v, %+v", relays(t), r.status("v").Problems)
		}
		stop()
		r.until("one relay is left", func() bool { return len(relays(t)) == 1 })
	}
}
