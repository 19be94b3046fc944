package launch

import (
	"os"
	"slices"
	"testing"
	"time"

	"liege/emperor/record"
	"liege/vassal"
)

// TestUnwritten: a generation that could not be recorded as serving when it became
// ready, because the run directory was full, is shown and is recorded later.
func TestUnwritten(t *testing.T) {
	r := newRig(t)
	l := r.launcher("unwritten")
	r.write("www/index.html", "home")
	running, _ := r.start(l, r.file("unwritten", "[vassal]\nuid = nobody\nhttp-socket = 127.0.0.1:0\ncheck-static = DIR/www\n", 0), 1)
	r.ready(running)
	in := running.(*instance)
	ready := func() bool {
		rs, err := r.host.Records.Read("unwritten")
		return err == nil && len(rs) == 1 && rs[0].Ready
	}
	shown := func() bool {
		return slices.ContainsFunc(in.Troubles(), func(p vassal.Problem) bool { return p.Code == vassal.CodeNotSaved })
	}
	if !ready() || shown() {
		t.Fatalf("recorded: %v, shown: %v, before anything was wrong", ready(), shown())
	}
	in.write(func(r *record.Record) { r.Ready = false })
	block := r.host.Records.Vassal("unwritten") + "/gen-1.json.tmp"
	if err := os.MkdirAll(block+"/x", 0o700); err != nil {
		t.Fatal(err)
	}
	in.write(func(r *record.Record) { r.Ready = true })
	if ready() || !shown() {
		t.Errorf("recorded: %v, shown: %v, while it cannot be written", ready(), shown())
	}
	if err := os.RemoveAll(block); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); !ready() || shown(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("recorded: %v, shown: %v, although it could be written again", ready(), shown())
		}
	}
}
