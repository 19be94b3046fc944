package sandbox

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"liege/vassal"
)

// While two generations live the vassal's limits are raised by what the old
// one uses, and fall back.
func TestOverlapLimits(t *testing.T) {
	r := newRig(t)
	limits := vassal.Limits{MemoryMax: 128 << 20, PidsMax: 50, CPUMax: 1.5}
	ceilings := vassal.Ceilings{MemoryMax: 200 << 20}
	start := func(gen int) *box {
		spec := r.spec("over", gen, "wait")
		spec.Limits = limits
		spec.Ceilings = ceilings
		b := r.start(spec)
		b.awaitOutput("waiting")
		return b
	}
	read := func() (memory, pids, cpu int64) {
		v := r.m.all() + "/v-over"
		tr := r.m.trees
		if tr.v2() {
			return readInt(tr.dir("memory", v), "memory.max"), readInt(tr.dir("pids", v), "pids.max"), 0
		}
		return readInt(tr.dir("memory", v), "memory.limit_in_bytes"), readInt(tr.dir("pids", v), "pids.max"), readInt(tr.dir("cpu", v), "cpu.cfs_quota_us")
	}
	one := start(1)
	if m, p, c := read(); m != 128<<20 || p != 50 || c != 150_000 && !r.m.trees.v2() {
		t.Errorf("one generation: memory %d, pids %d, cpu %d", m, p, c)
	}
	limits = vassal.Limits{MemoryMax: 40 << 20, PidsMax: 20}
	failed := start(2)
	failed.Kill()
	failed.wait()
	if m, p, c := read(); m != 128<<20 || p != 50 || c != 150_000 && !r.m.trees.v2() {
		t.Errorf("after a new one that failed: memory %d, pids %d, cpu %d, want those of the old one, which serves", m, p, c)
	}
	limits = vassal.Limits{MemoryMax: 128 << 20, PidsMax: 50, CPUMax: 1.5}
	two := start(3)
	if m, p, _ := read(); m <= 128<<20 || m > 200<<20 || p <= 50 {
		t.Errorf("two generations: memory %d, pids %d, want more than one's", m, p)
	}
	one.Kill()
	one.wait()
	if m, p, _ := read(); m != 128<<20 || p != 50 {
		t.Errorf("after the old one: memory %d, pids %d", m, p)
	}
	two.Kill()
	two.wait()
}

// Limits are not raised over the ceilings, whatever the old ones use, but for what
// a successor needs to start.
func TestOverlapCeilings(t *testing.T) {
	r := newRig(t)
	ceilings := vassal.Ceilings{MemoryMax: 129 << 20, PidsMax: 200}
	one := r.spec("over", 1, append([]string{"hold", "16"}, make([]string, 20)...)...)
	one.Limits, one.Ceilings = vassal.Limits{MemoryMax: 129 << 20, PidsMax: 200}, ceilings
	old := r.start(one)
	old.awaitOutput(strings.Repeat("waiting\n", 21))
	u, err := old.Usage()
	if err != nil || u.Pids <= overlapPids+RelayPids || u.MemoryBytes < 16<<20 {
		t.Fatalf("the old one uses %+v, %v: too little for this test", u, err)
	}
	two := r.spec("over", 2, "wait")
	two.Limits, two.Ceilings = vassal.Limits{MemoryMax: 128 << 20, PidsMax: 200}, ceilings
	if r.m.trees.v2() {
		two.Limits.MemoryHigh = 120 << 20
	}
	r.start(two).awaitOutput("waiting")
	tr, v := r.m.trees, old.v.cgroup()
	memory := "memory.limit_in_bytes"
	if tr.v2() {
		memory = "memory.max"
		if got := readInt(tr.dir("memory", v), "memory.high"); got != 129<<20 {
			t.Errorf("memory.high %d, want the ceiling", got)
		}
	}
	if got := readInt(tr.dir("memory", v), memory); got != 129<<20 {
		t.Errorf("%s %d, want the ceiling", memory, got)
	}
	if got, want := readInt(tr.dir("pids", v), "pids.max"), int64(200+overlapPids+RelayPids); got != want {
		t.Errorf("pids.max %d, want %d", got, want)
	}
}

// What was raised is not raised where there is no limit.
func TestRaised(t *testing.T) {
	r := newRig(t)
	b := r.start(r.spec("free", 1, "wait"))
	b.awaitOutput("waiting")
	b.v.mu.Lock()
	defer b.v.mu.Unlock()
	if up := b.v.raised(vassal.Limits{}, vassal.Ceilings{MemoryMax: 1 << 20, PidsMax: 5}); up.Any() {
		t.Errorf("raised: %+v", up)
	}
}

// A generation that needs as much as the old one starts beside it only where the
// ceiling is enough for both.
func TestCrowded(t *testing.T) {
	const mib = 1 << 20
	r := newRig(t)
	spec := r.spec("full", 1, "hold", "60")
	spec.Limits.MemoryMax = 100 * mib
	b := r.start(spec)
	b.awaitOutput("waiting")
	for _, tt := range []struct {
		limit, ceiling int64
		want           bool
	}{{100, 100, true}, {100, 110, true}, {100, 200, false}, {100, 0, false}, {0, 100, false}, {20, 100, false}, {20, 75, true}} {
		used, need, got := b.v.Crowded(vassal.Limits{MemoryMax: tt.limit * mib}, vassal.Ceilings{MemoryMax: tt.ceiling * mib})
		if got != tt.want {
			t.Errorf("memory-max %dM of at most %dM: crowded %t (%dM held, %dM needed), want %t", tt.limit, tt.ceiling, got, used/mib, need/mib, tt.want)
		}
	}
	b.Kill()
	b.wait()
	if _, _, crowded := b.v.Crowded(vassal.Limits{MemoryMax: mib}, vassal.Ceilings{MemoryMax: mib}); crowded {
		t.Error("crowded by what is gone")
	}
}

// scores are the oom_score_adj of the processes of b, the core's first.
func (b *box) scores() (out []string) {
	b.t.Helper()
	pids := b.m.trees.pids(b.cgroup)
	slices.SortStableFunc(pids, func(x, y int) int {
		if x == b.pid {
			return -1
		}
		return 0
	})
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if err != nil {
			b.t.Error(err)
		}
		out = append(out, strings.TrimSpace(string(text)))
	}
	return out
}

// The kernel kills a generation before the one that served when it was started,
// until it serves itself.
func TestDiesFirst(t *testing.T) {
	r := newRig(t)
	start := func(gen int, args ...string) *box {
		spec := r.spec("score", gen, args...)
		spec.Plan.OOMScore = 400
		spec.Limits.MemoryMax, spec.Ceilings.MemoryMax = 128<<20, 128<<20
		return r.start(spec)
	}
	old := start(1, "hold", "60")
	old.awaitOutput("waiting")
	if got := old.scores(); !slices.Equal(got, []string{"400"}) {
		t.Errorf("the only one: %v", got)
	}
	next := start(2, "hold", "1", "", "")
	next.awaitOutput(strings.Repeat("waiting\n", 3))
	if got := next.scores(); !slices.Equal(got, []string{"1000", "1000", "1000"}) {
		t.Errorf("the second: %v", got)
	}
	for range 2 {
		if err := next.Level(); err != nil {
			t.Fatal(err)
		}
		if got := next.scores(); !slices.Equal(got, []string{"400", "700", "700"}) {
			t.Errorf("once it serves: %v", got)
		}
	}
	if rec := next.Record(); !rec.Second || rec.Score != 400 {
		t.Errorf("the next Emperor would leave it as it is: %+v", rec)
	}
	next.Kill()
	next.wait()

	eater := start(3, "eat")
	if x := eater.wait(); !x.OOM {
		t.Errorf("exit %+v", x)
	}
	select {
	case <-old.Done():
		t.Errorf("the old one died: %+v", old.Exit())
	default:
	}
}
