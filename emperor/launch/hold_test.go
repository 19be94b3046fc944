package launch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/emperor"
	"liege/emperor/resolve"
	"liege/vassal"
)

// hold starts a holding generation, which ends with the test.
func (r *rig) hold(l emperor.Launcher, p emperor.Prepared, n int) emperor.Instance {
	r.t.Helper()
	in, err := l.(emperor.Holder).Hold(r.t.Context(), p, vassal.Hold{Status: 503, Page: []byte("held")}, emperor.FirstHold+n)
	if err != nil || in == nil {
		r.t.Fatalf("not held: %v, %v", in, err)
	}
	r.t.Cleanup(func() { r.finish(in) })
	r.ready(in)
	return in
}

// A holding generation answers on the listeners of a vassal that has never
// run, sees nothing of the vassal and leaves its place to the next generation.
func TestHold(t *testing.T) {
	r := newRig(t)
	r.site()
	l := r.launcher("site")
	p := r.prepare(l, r.file("site", static+"hook-as-root = exec:touch /tmp/kept\n", 0))
	held := r.hold(l, p, 1)
	if got := r.get(r.dir + "/sock/s.sock"); got != "held" {
		t.Errorf("held: %s", got)
	}
	var st unix.Stat_t
	if err := unix.Stat(r.dir+"/sock/s.sock", &st); err != nil || st.Uid != nobody {
		t.Errorf("the socket belongs to %d, %v; want the vassal's user", st.Uid, err)
	}
	proc := fmt.Sprintf("/proc/%d", held.PID())
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		t.Fatal(err)
	}
	uid := "Uid:\t" + strings.Repeat(strconv.Itoa(resolve.FirstAutoUID)+"\t", 3) + strconv.Itoa(resolve.FirstAutoUID)
	for _, want := range []string{uid, "Groups:\t \n", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if its, err := os.Readlink(proc + "/ns/net"); err != nil || its == own {
		t.Errorf("network namespace %s, %v; want one of its own", its, err)
	}
	mounts, err := os.ReadFile(proc + "/mountinfo")
	if err != nil || strings.Contains(string(mounts), "/www ") || !strings.Contains(string(mounts), " / /tmp ro,") || !strings.Contains(string(mounts), " / /dev/shm ro,") {
		t.Errorf("it sees what is the vassal's, %v:\n%s", err, mounts)
	}
	if es, err := os.ReadDir(proc + "/root/tmp"); err != nil || len(es) > 0 {
		t.Errorf("its /tmp has %v, %v", es, err)
	}

	one, _ := r.start(l, r.file("site", static, 0), 1)
	r.ready(one)
	if err := held.Drain(); err != nil {
		t.Error(err)
	}
	r.gone(held)
	if ps := held.Problems(); len(ps) > 0 {
		t.Errorf("problems: %v", ps)
	}
	if got := r.get(r.dir + "/sock/s.sock"); got != "hello" {
		t.Errorf("afterwards: %s", got)
	}
}

// Without a usable file it answers where the vassal listened before, and
// without listeners it is not started.
func TestHoldWithoutFile(t *testing.T) {
	r := newRig(t)
	r.site()
	l := r.launcher("site")
	in, err := l.(emperor.Holder).Hold(t.Context(), nil, vassal.Hold{Status: 503}, emperor.FirstHold+1)
	if in != nil || err != nil {
		t.Fatalf("without listeners: %v, %v", in, err)
	}
	one, _ := r.start(l, r.file("site", static, 0), 1)
	r.ready(one)
	listens := one.(emperor.Binder).Bound()
	r.finish(one)
	bad, ps := l.Prepare(t.Context(), r.file("site", static+"processes = many\n", 0))
	if !ps.Failed() {
		t.Fatal("the file is good")
	}
	r.hold(l, bad, 2)
	for _, a := range listens {
		if got := r.get(a); got != "held" {
			t.Errorf("%s: %s", a, got)
		}
	}
}

// The next Emperor finds the holding generation; where the vassal itself
// survived too, that one is found first. The whole story is in e2e.
func TestHoldAdopt(t *testing.T) {
	r := newRig(t)
	r.site()
	l := r.host.Launcher("site").(*launcher)
	f := r.file("site", static, 0)
	one, _ := r.start(l, f, 1)
	r.ready(one)
	held := r.hold(l, r.prepare(l, f), 1)
	for _, tt := range []struct{ both bool }{{true}, {false}} {
		if !tt.both {
			r.finish(one)
		}
		var got []int
		for _, s := range l.survivors() {
			if !s.Ready || !r.host.Keep("site", s.Gen) || len(s.Listeners) != 2 {
				t.Errorf("%+v would not be adopted", s)
			}
			got = append(got, s.Gen)
		}
		want := []int{1, emperor.FirstHold + 1}
		if !tt.both {
			want = want[1:]
		}
		if !slices.Equal(got, want) {
			t.Errorf("survivors %v, want %v", got, want)
		}
	}
	r.finish(held)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "sock/s.sock")); err == nil {
		t.Error("the socket is left")
	}
}
